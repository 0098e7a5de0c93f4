"""A file that grows by whole blocks: a block is durable when `append` returns, or it was not accepted.

The rules of this file. A full disk is survived: the part that was written is cut off again, and the next block may fit.
Every other error stops the file until the next start, a failed fsync above all: the kernel may have dropped what it
could not write, and says so only once. What a start finds is therefore written again before a block follows it. It
also stops when the path leads elsewhere or the size is not what was left: lines in a file that was moved, removed or
cut off are lines that nobody will read. Belongs to one thread at a time, and to one process (an exclusive lock).
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
"""Makes the data of an open file durable, as os.fdatasync."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

_log = logging.getLogger(__name__)


class UnusableAuditFile(OperatorError):
    """The audit trail cannot be kept in this file; one line says why and what to do."""


class AppendFile:
    """One open file. Its methods raise AuditUnavailable."""

    def __init__(self, path: Path, sync: Sync) -> None:
        """Opens the file, made 0600 if absent, for this process alone. Raises UnusableAuditFile."""
        self.path = path
        self.full = False
        """The disk had no room for the last block."""
        self._sync = sync
        self._stopped = False
        self._file = self._opened()
        self.size = os.fstat(self._file).st_size
        """Bytes that were accepted."""

    def reopen(self) -> None:
        """Goes on in the file that is at the path now. Raises UnusableAuditFile."""
        previous, self._file = self._file, self._opened()
        os.close(previous)
        self.size = os.fstat(self._file).st_size

    def append(self, block: bytes | bytearray) -> None:
        """Adds the block, durably."""
        if self._stopped:
            raise AuditUnavailable
        try:
            self._write(block)
        except OSError as error:
            self._take_back(error)
        try:
            self._sync(self._file)
        except OSError as error:
            self._stop("fsync failed", error)
        self.size += len(block)
        self.full = False
        self.look()

    def look(self) -> None:
        """Returns if the file is where it was opened, and as `append` left it."""
        if self._stopped:
            raise AuditUnavailable
        try:
            there, ours = self.path.stat(), os.fstat(self._file)
        except OSError as error:
            self._stop("the file is gone", error)
        if (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino):
            self._stop("another file took its place")
        if ours.st_size != self.size:
            self._stop("somebody else changed it")

    def read(self, start: int) -> bytes:
        """All from this offset on."""
        with os.fdopen(os.dup(self._file), "rb") as file:
            file.seek(start)
            return file.read(self.size - start)

    def end_with(self, tail: bytes, start: int) -> None:
        """Makes `tail`, from `start` on, the end of the file, durably. Raises UnusableAuditFile.

        It is what was read there, without what is to be cut off; see files.write_again for why it is written again.
        """
        try:
            with self.path.open("r+b") as file:  # ours appends, whatever the offset
                file.seek(start)
                file.write(tail)
                file.truncate()
                self._sync(file.fileno())
        except OSError as error:
            why = f"cannot be made durable ({error.strerror}): see whether its disk is full or failing"
            raise UnusableAuditFile(f"{self.path} {why}") from None
        self.size = start + len(tail)

    def close(self) -> None:
        """Gives the lock back."""
        os.close(self._file)

    def _opened(self) -> int:
        try:
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
        except OSError as error:
            raise UnusableAuditFile(f"{self.path} cannot be opened: {error.strerror}") from None
        try:
            self._refuse_unsafe(file)
        except BaseException:
            os.close(file)
            raise
        return file

    def _refuse_unsafe(self, file: int) -> None:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            raise UnusableAuditFile(f"{self.path} is no regular file: lines in it could not be verified")
        refuse_unsafe(self.path, status)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UnusableAuditFile(f"{self.path} is in use by another keyvault-server: each needs its own") from None

    def _write(self, block: bytes | bytearray) -> None:
        rest = memoryview(block)
        while rest:
            rest = rest[os.write(self._file, rest) :]

    def _take_back(self, error: OSError) -> NoReturn:
        """Cuts off what was written of a block; only if that works may another one follow."""
        if error.errno not in _FULL:
            self._stop("write failed", error)
        try:
            os.ftruncate(self._file, self.size)
        except OSError as failed:
            self._stop("a part of a line cannot be taken back", failed)
        if not self.full:
            _log.error("the audit trail is full", extra={"path": str(self.path)})
        self.full = True
        raise AuditUnavailable

    def _stop(self, why: str, error: OSError | None = None) -> NoReturn:
        self._stopped = True
        code = errno.errorcode.get(error.errno or 0, "") if error else ""
        _log.critical("the audit trail stopped", extra={"path": str(self.path), "cause": why, "code": code})
        raise AuditUnavailable
