"""Locks between processes of one machine, for files that several of them write.

The rule of this file: no wait is for ever. Another user may hold a lock of a folder that he can read.
"""

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

LOCK_SECONDS = 2.0
"""Longest wait for another run."""
_WITHOUT_LOCKS = (errno.EBADF, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)
"""What file systems answer that cannot lock a folder, such as NFS."""


def wait_for_lock(descriptor: int, name: str) -> None:
    """Take the lock of an open file, until it is closed. Raises OSError with the name after LOCK_SECONDS."""
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            if time.monotonic() >= deadline:
                raise OSError(error.errno, "locked by another run", name) from None
            time.sleep(0.01)


@contextlib.contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, where its file system has locks. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            wait_for_lock(descriptor, os.fspath(folder))
        except OSError as error:
            if error.errno not in _WITHOUT_LOCKS:
                raise
        yield
    finally:
        os.close(descriptor)
