"""Files that survive a crash: durable replacement, and what an earlier process may not have made durable.

The rule of this file: what a function has written is durable when it returns.
Source: Rebello et al., "Can Applications Recover from fsync Failures?", USENIX ATC 2020.
"""

import errno
import os
from pathlib import Path

from keyvault_api.files import sync_directory

_PIECE = 1024 * 1024
_REMEDIES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space, or raise the quota",
    errno.EMFILE: "raise this process's limit of open files (ulimit -n)",
    errno.ENFILE: "too many files are open on this machine",
    errno.EIO: "its disk is failing",
}


def explain(error: OSError) -> str:
    """Return what the system says about a file that cannot be made or written, and what to do where that is clear."""
    says, remedy = error.strerror or type(error).__name__, _REMEDIES.get(error.errno or 0)
    return f"{says}: {remedy}" if remedy else says


def replace_durably(path: Path, content: bytes) -> None:
    """Write a file of mode 0600 so that a crash leaves the old content or the new, never a part.

    Raises OSError, also for what exists and is not a file: a rename would put a file in place of a device.
    """
    path = path.resolve()  # a link stays one: its target may be on another volume on purpose
    if path.exists() and not path.is_file():
        raise FileExistsError(errno.EEXIST, "exists and is not a file", str(path))
    draft = path.with_name(f"{path.name}.new")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    sync_directory(path.parent)


def rewrite_durably(path: Path) -> None:
    """Write a file's content again and sync it, if the file exists, before anybody relies on it.

    A process that died may never have come to its fsync. After an fsync that failed, another fsync is not enough: the
    kernel considers written what it could not write.
    """
    if not path.exists():
        return
    with path.open("r+b") as file:
        while piece := file.read(_PIECE):
            file.seek(-len(piece), os.SEEK_CUR)
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())


def make_directory(path: Path) -> None:
    """Create a directory of mode 0700 and its missing parents, and make their names durable.

    A power cut can lose a directory whose name was not synced, with everything in it, however durable its files are.
    """
    if path.is_dir():
        return
    make_directory(path.parent)
    path.mkdir(mode=0o700, exist_ok=True)
    sync_directory(path.parent)
