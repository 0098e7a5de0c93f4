"""Stamps of files, by which both sides notice that a file was changed or replaced."""

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
