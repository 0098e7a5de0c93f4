"""The data directory of the embedded backend: who may read it, who has it open, and where what is.

One process a directory (an exclusive lock on `lock`). Everything in it is 0600 in a folder of 0700; a file that
others can read, or a folder that they can write, is refused, not mended: somebody may have done so already.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from keyvault_server.core.errors import Refused

_PIECE = 1024 * 1024


class UnsafeDirectory(Refused):
    """The data directory cannot be used as it is; the message says what to do."""


@dataclass(frozen=True, slots=True)
class DataDirectory:
    """The paths of one embedded vault."""

    path: Path

    @property
    def keyring(self) -> Path:
        """The master keys."""
        return self.path / "keyring.json"

    @property
    def database(self) -> Path:
        """The records."""
        return self.path / "records.sqlite3"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Makes the directory if it is absent and holds it for this process. Raises UnsafeDirectory."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise UnsafeDirectory(f"{self.path} cannot be used: {error.strerror}") from None
        try:
            _refuse_if_others_can_write(self.path)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError:
            raise UnsafeDirectory(f"{self.path} is in use by another keyvault-server: stop it first") from None
        finally:
            os.close(lock)


def refuse_if_others_can_read(path: Path) -> None:
    """Raises UnsafeDirectory for a file that group or others have any right to, or that is not ours."""
    status = path.stat()
    if status.st_mode & 0o077:
        raise UnsafeDirectory(f"others can read {path}: make sure that nobody has, then `chmod 600 {path}`")
    if status.st_uid != os.geteuid():
        raise UnsafeDirectory(f"{path} belongs to another user (uid {status.st_uid}): run as that user")


def _refuse_if_others_can_write(folder: Path) -> None:
    """Whoever writes a folder puts another file in a file's place, whatever the file's own mode."""
    if folder.stat().st_mode & 0o022:
        raise UnsafeDirectory(f"others can write to {folder}: make sure that nobody has, then `chmod go-w {folder}`")


def replace_durably(path: Path, content: bytes) -> None:
    """Writes a file of mode 0600 so that a crash leaves the old content or the new, never a part."""
    draft = path.with_name(f"{path.name}.new")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    sync_directory(path.parent)


def write_again(path: Path) -> None:
    """Makes durable what a process that died has left in a file, if there is one, before anybody relies on it.

    It may never have come to its fsync; and after an fsync that failed, another one is not enough: the kernel takes for
    written what it could not write (Rebello et al., "Can Applications Recover from fsync Failures?", USENIX ATC 2020).
    """
    if not path.exists():
        return
    with path.open("r+b") as file:
        while piece := file.read(_PIECE):
            file.seek(-len(piece), os.SEEK_CUR)
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """Makes the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
