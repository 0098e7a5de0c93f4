"""A file that grows by whole blocks: a block is durable when `append` returns, or it was not accepted.

The rules of this file:

- A full disk does not stop the file: the part of the block that was written is removed, and the next block may fit.
- Every other error stops the file until the next start. After a failed fsync the kernel may have dropped what it could
  not write, and reports that only once. So a start writes the end of the file again before a block follows it.
- The file also stops if another file is at its path, or if its size changed: nobody would read lines in a file that was
  moved, removed or truncated.
- It belongs to one thread at a time, and to one process (an exclusive lock).
"""

import errno
import fcntl
import logging
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from keyvault_server.core.errors import AuditUnavailable, OperatorError
from keyvault_server.disk.permissions import refuse_unsafe

Sync = Callable[[int], None]
"""Function that makes the data of an open file durable, such as os.fdatasync."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

_log = logging.getLogger(__name__)


class UnusableAuditFile(OperatorError):
    """The file cannot hold an audit log; the message is one line that says why and what to do."""


class AppendFile:
    """One open file. Its methods raise AuditUnavailable."""

    def __init__(self, path: Path, sync: Sync) -> None:
        """Open and lock the file; create it with mode 0600 if it does not exist. Raises UnusableAuditFile."""
        self.path = path
        self.full = False
        """Whether the disk had no room for the last block."""
        self._sync = sync
        self._stopped = False
        self._file = self._open()
        self.size = os.fstat(self._file).st_size
        """Bytes that were accepted."""

    def reopen(self) -> None:
        """Go on in the file that is at the path now. Raises UnusableAuditFile."""
        previous, self._file = self._file, self._open()
        os.close(previous)
        self.size = os.fstat(self._file).st_size

    def append(self, block: bytes | bytearray) -> None:
        """Add the block, durably."""
        if self._stopped:
            raise AuditUnavailable
        try:
            self._write(block)
        except OSError as error:
            self._remove_partial_block(error)
        try:
            self._sync(self._file)
        except OSError as error:
            self._stop("fsync failed", error)
        self.size += len(block)
        self.full = False
        self.check_unchanged()

    def check_unchanged(self) -> None:
        """Stop the file unless it still is at its path, with the size that `append` left."""
        if self._stopped:
            raise AuditUnavailable
        try:
            at_path, ours = self.path.stat(), os.fstat(self._file)
        except OSError as error:
            self._stop("the file was removed", error)
        if (at_path.st_dev, at_path.st_ino) != (ours.st_dev, ours.st_ino):
            self._stop("another file replaced it")
        if ours.st_size != self.size:
            self._stop("another process changed it")

    def read(self, start: int) -> bytes:
        """Return everything from this offset on."""
        with os.fdopen(os.dup(self._file), "rb") as file:
            file.seek(start)
            return file.read(self.size - start)

    def rewrite_end(self, tail: bytes, start: int) -> None:
        """Make `tail`, at offset `start`, the end of the file, durably. Raises UnusableAuditFile.

        It is what `read` found there, without a partial last line; `rewrite_durably` says why it is written again.
        """
        try:
            with self.path.open("r+b") as file:  # our own descriptor can only append
                file.seek(start)
                file.write(tail)
                file.truncate()
                self._sync(file.fileno())
        except OSError as error:
            why = f"cannot be made durable ({error.strerror}): check whether its disk is full or failing"
            raise UnusableAuditFile(f"{self.path}: {why}") from None
        self.size = start + len(tail)

    def close(self) -> None:
        """Close the file and release the lock."""
        os.close(self._file)

    def _open(self) -> int:
        try:
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
        except OSError as error:
            raise UnusableAuditFile(f"{self.path}: cannot be opened: {error.strerror}") from None
        try:
            self._check_and_lock(file)
        except BaseException:
            os.close(file)
            raise
        return file

    def _check_and_lock(self, file: int) -> None:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            raise UnusableAuditFile(f"{self.path}: not a regular file: lines in it could not be verified")
        refuse_unsafe(self.path, file)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UnusableAuditFile(
                f"{self.path}: in use by another keyvault-server: each needs a log of its own"
            ) from None

    def _write(self, block: bytes | bytearray) -> None:
        rest = memoryview(block)
        while rest:
            rest = rest[os.write(self._file, rest) :]

    def _remove_partial_block(self, error: OSError) -> NoReturn:
        """Remove what was written of a block; only if that succeeds may another block follow."""
        if error.errno not in _FULL:
            self._stop("write failed", error)
        try:
            os.ftruncate(self._file, self.size)
        except OSError as failed:
            self._stop("a partial line cannot be removed", failed)
        if not self.full:
            _log.error("the audit log's disk is full", extra={"path": str(self.path)})
        self.full = True
        raise AuditUnavailable

    def _stop(self, why: str, error: OSError | None = None) -> NoReturn:
        self._stopped = True
        code = errno.errorcode.get(error.errno or 0, "") if error else ""
        _log.critical("the audit log stopped", extra={"path": str(self.path), "cause": why, "code": code})
        raise AuditUnavailable
