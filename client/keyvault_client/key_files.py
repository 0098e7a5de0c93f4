"""Key files on disk: who may use one, and how one is written so that a crash loses no key.

The rules of this file:

* A key file belongs to us or to root. No other user may read or write it, except a group of ours, as Kubernetes has it
  for a volume with fsGroup. A file that breaks this rule is refused and never repaired: somebody may have used it.
* A key file is written with mode 0600 and is on the disk, with its name, before the write returns.
* A new file never replaces another one. A replaced file stays until the new content is on the disk.
"""

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from keyvault_api.files import sync_directory, why_unsafe
from keyvault_client.errors import InvalidRequest

MAX_FILE = 64 * 1024
"""Most bytes in a key file."""


def read_private(path: str | os.PathLike[str]) -> bytes:
    """Read a file that no other user can use. Raises OSError, or InvalidRequest with the name of the file.

    Pipes and devices are not checked: a shell makes them for `--key <(...)`.
    """
    with Path(path).open("rb") as file:
        if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            _refuse_shared(os.fspath(path), file.fileno())
        content = file.read(MAX_FILE + 1)
    if len(content) > MAX_FILE:
        raise InvalidRequest(f"{os.fspath(path)}: not a data key: larger than {MAX_FILE} bytes")
    return content


def save_new_file(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a new file durably. Raises OSError, FileExistsError among them, and then leaves no partial file."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with _removed_on_failure(Path(path), os.fspath(path)):
        _write_durably(descriptor, content)
    sync_directory(Path(path).parent)


def replace_file(path: str | os.PathLike[str], content: bytes) -> None:
    """Replace a file durably; it keeps its mode and its group. Raises OSError, and then leaves the old file."""
    target = Path(path).resolve()  # a symbolic link stays one
    _put(target, os.fspath(path), content, target.stat())


def write_private(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file of mode 0600 durably, new or in place of an old one, as `replace_file` does. Raises OSError."""
    _put(Path(os.path.realpath(path)), os.fspath(path), content, None)  # a symbolic link stays one, unless it is a loop


def write_private_file(path: Path, content: bytes) -> None:
    """Write a file as `write_private` does; a pipe or a device is written to. Raises OSError."""
    if path.exists() and not path.is_file():
        _write_to_device(path, content)
    else:
        write_private(path, content)


def _put(target: Path, name: str, content: bytes, like: os.stat_result | None) -> None:
    """Give the target new content, with the mode and group of `like`, or mode 0600.

    1. The new content is on the disk, in a file next to the old one.
    2. The new file takes the name of the old one.
    3. The name is on the disk.
    """
    import tempfile  # it takes a while to import, and few programs replace a file

    # 1.
    try:
        descriptor, draft = tempfile.mkstemp(prefix=f".{target.name[:100]}.", dir=target.parent)
    except OSError as error:
        raise OSError(error.errno, error.strerror, name) from None
    with _removed_on_failure(Path(draft), name):
        _write_durably(descriptor, content, like)
        # 2.
        Path(draft).replace(target)
    # 3.
    sync_directory(target.parent)


def _write_to_device(path: Path, content: bytes) -> None:
    try:
        with path.open("wb") as file:
            file.write(content)
    except OSError as error:
        raise OSError(error.errno, error.strerror, os.fspath(path)) from None


def _refuse_shared(name: str, opened: int) -> None:
    if why := why_unsafe(name, opened, secret=True):
        raise InvalidRequest(why)


def _write_durably(descriptor: int, content: bytes, like: os.stat_result | None = None) -> None:
    with os.fdopen(descriptor, "wb") as file:
        if like is not None:
            if os.fstat(descriptor).st_gid != like.st_gid:
                os.fchown(descriptor, -1, like.st_gid)
            os.fchmod(descriptor, stat.S_IMODE(like.st_mode))
        file.write(content)
        file.flush()
        os.fsync(descriptor)


@contextlib.contextmanager
def _removed_on_failure(made: Path, name: str) -> Iterator[None]:
    """Remove the file that was made if the body fails, and name the file that the caller knows."""
    try:
        yield
    except BaseException as error:
        with contextlib.suppress(OSError):  # of a disk that became read-only
            made.unlink()
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, name) from None
        raise
