"""What both sides know of files: stamps, who may read or write one, and durable names.

The rule of this file: it judges and says why; each side raises an error of its own.
"""

import os
import stat
from pathlib import Path
from typing import TypeAlias

from keyvault_api.acl import READ, WRITE, Acl, read_acl

FileStamp: TypeAlias = tuple[int, ...] | None
"""Device, inode, size, mtime and ctime (in ns) of a file; None if there is no such file."""


def stamp_of(path: Path) -> FileStamp:
    """Return the file's stamp: it differs for another file and for another version. Symbolic links are followed."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def why_unsafe(path: Path | str, opened: int | None = None, *, secret: bool = False, group_reads: bool = False) -> str:
    """Return why a file or folder is not safe from others, as a sentence that says what to do; "" if it is.

    It belongs to us or to root, and nobody else may write it, nor read it if it is a `secret`, but a group of ours;
    `group_reads` lets any group read, and users whom an access control list names. `opened` is the descriptor of the
    open file, where there is one: the path may lead elsewhere by now. Raises OSError.
    """
    file = path if opened is None else opened
    status = os.stat(file)  # noqa: PTH116 - of a descriptor too
    try:
        acl = read_acl(file)
    except ValueError as error:
        return f"{path} has an access control list that cannot be checked ({error}): `setfacl -b {path}` removes it"
    mode = stat.S_IMODE(status.st_mode)
    found = mode if acl is None else mode & ~stat.S_IRWXG | acl.group << 3
    if found & _forbidden(status, secret=secret, group_reads=group_reads):
        remedy = f"`chmod {'go-rwx' if secret else 'go-w'} {path}`"
        who = "read or write" if secret else "write"
        return f"{path} has mode {mode:04o}, so others can {who} it: check that nobody did, then {remedy}"
    if status.st_uid not in (0, os.geteuid()):
        return f"{path} belongs to another user (uid {status.st_uid}), who can write it: `chown` it"
    return "" if acl is None else _why_shared(path, acl, WRITE | (READ if secret and not group_reads else 0))


def _why_shared(path: Path | str, acl: Acl, forbidden: int) -> str:
    """Return which other user or group the list gives forbidden rights, as a sentence; "" if there is none."""
    others = [("u", "user", uid, rights) for uid, rights in acl.users.items() if uid not in (0, os.geteuid())]
    others += [("g", "group", gid, rights) for gid, rights in acl.groups.items() if not _is_ours(gid)]
    for letter, kind, number, rights in others:
        if rights & forbidden:
            what = f"{kind} {number} can {'write' if rights & WRITE else 'read'} it"
            remedy = f"check that nobody did, then `setfacl -x {letter}:{number} {path}`"
            return f"{path} has an access control list, so {what}: {remedy}"
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
    if _is_ours(status.st_gid):
        return others
    return others | (stat.S_IWGRP if group_reads else group)


def _is_ours(gid: int) -> bool:
    return gid == os.getegid() or gid in os.getgroups()
