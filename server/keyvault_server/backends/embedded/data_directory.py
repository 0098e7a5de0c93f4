"""The data directory of the embedded backend: its paths, and the lock that one process holds.

The rule of this file: the files have mode 0600 and the folder 0700. A file that others can read, or a folder that they
can write, is refused, never repaired: somebody may have used it already.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from keyvault_server.core.errors import OperatorError
from keyvault_server.disk.files import make_directory
from keyvault_server.disk.permissions import refuse_unsafe


class UnusableData(OperatorError):
    """The data directory, or a file in it, cannot be used; the message names it and says what to do."""


@dataclass(frozen=True, slots=True)
class DataDirectory:
    """Paths of one embedded vault."""

    path: Path

    @property
    def keyring(self) -> Path:
        """Path of the master keys."""
        return self.path / "keyring.json"

    @property
    def database(self) -> Path:
        """Path of the records."""
        return self.path / "records.sqlite3"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Create the directory if it does not exist and hold it for this process. Raises UnusableData, UnsafeFile."""
        try:
            make_directory(self.path)
            lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise UnusableData(f"cannot use the data directory {self.path}: {error.strerror}") from None
        try:
            refuse_unsafe(self.path)  # a process that can write the folder can replace any file in it
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError:
            raise UnusableData(f"{self.path} is in use by another keyvault-server: stop it first") from None
        finally:
            os.close(lock)
