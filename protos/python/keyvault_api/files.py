"""What both sides know of files: stamps, who may read or write one, and durable names.

The rule of this file: it judges and says why; each side raises an error of its own.
"""

import os
import stat
from pathlib import Path
from typing import TypeAlias

FileStamp: TypeAlias = tuple[int, ...] | None
"""Device, inode, size, mtime and ctime (in ns) of a file; None if there is no such file."""


def stamp_of(path: Path) -> FileStamp:
    """Return the file's stamp: it differs for another file and for another version. Symbolic links are followed."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def why_unsafe(path: Path | str, status: os.stat_result, *, secret: bool = False, group_reads: bool = False) -> str:
    """Return why a file or folder is not safe from others, as a sentence that says what to do; "" if it is.

    It belongs to us or to root, and nobody else may write it, nor read it if it is a `secret`, but a group of ours;
    `group_reads` lets any group read.
    """
    mode = stat.S_IMODE(status.st_mode)
    if mode & _forbidden(status, secret=secret, group_reads=group_reads):
        remedy = f"`chmod {'go-rwx' if secret else 'go-w'} {path}`"
        who = "read or write" if secret else "write"
        return f"{path} has mode {mode:04o}, so others can {who} it: check that nobody did, then {remedy}"
    if status.st_uid not in (0, os.geteuid()):
        return f"{path} belongs to another user (uid {status.st_uid}), who can write it: `chown` it"
    return ""


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _forbidden(status: os.stat_result, *, secret: bool, group_reads: bool) -> int:
    """Return the permission bits that the file must not have."""
    others, group = (stat.S_IRWXO, stat.S_IRWXG) if secret else (stat.S_IWOTH, stat.S_IWGRP)
    if status.st_gid == os.getegid() or status.st_gid in os.getgroups():
        return others
    return others | (stat.S_IWGRP if group_reads else group)
