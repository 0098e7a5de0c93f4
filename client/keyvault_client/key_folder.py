"""Key files in a folder: which there are, what is wrong with the others, and how a new one is written.

The rules of this file:

* Every `*.key` file counts. A `*.key.new` file holds the new key of a rotation that is under way. Folders, other files
  and names that begin with a dot do not count.
* The scope in a file counts, not the name of the file.
* No other user may write the folder, and each file follows the rule of key_files.py.
* A file that cannot be used is a problem and never skipped: its key may be the one that a record needs.
"""

import contextlib
import hashlib
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from keyvault_api.files import FileStamp, stamp_of, sync_directory, why_unsafe
from keyvault_api.printable import printable
from keyvault_client.errors import InvalidRequest
from keyvault_client.key_files import save_new_file
from keyvault_client.keys import DataKey

SUFFIX = ".key"
NEW_SUFFIX = ".key.new"
"""Ending of a file with the new key of a rotation."""
SETTLED_SECONDS = 1.0
"""Age at which the times of a file or folder show every change: file systems count time in coarse ticks."""

_LONGEST_STEM = 200
_ESCAPED = re.compile(r"^\.|/")


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A key in a file. Its repr shows no secret."""

    path: Path
    key: DataKey
    is_new: bool
    """True for the new key of a rotation that is under way."""
    stamp: FileStamp = field(default=None, repr=False, compare=False)
    """The file's when it was read; None if a change could have left it as it was."""

    def to_json(self) -> dict[str, Any]:
        """Return what may be shown of it; `plaintext` is whether the file has the key's plaintext."""
        return {
            "scope": self.key.scope,
            "tenant": self.key.tenant,
            "file": str(self.path),
            "plaintext": self.key.plaintext_key is not None,
            "new": self.is_new,
        }

    def __str__(self) -> str:
        """Return a line for a person."""
        notes = ["without plaintext"] if self.key.plaintext_key is None else []
        notes += ["new key of a rotation"] if self.is_new else []
        return "  ".join([self.key.scope, self.key.tenant, printable(str(self.path)), *notes])


@dataclass(frozen=True, slots=True)
class KeyFolder:
    """What a look at a folder found."""

    keys: tuple[StoredKey, ...] = ()
    """Ordered by scope, tenant and file."""
    problems: tuple[str, ...] = ()
    """A sentence for each file that cannot be used, and for each scope that has two keys."""


def read_folder(
    folder: Path, known: Iterable[StoredKey] = (), file_clock: Callable[[], float] = time.time
) -> KeyFolder:
    """Look at every key file; those that are unchanged since they became `known` are not read. Raises InvalidRequest.

    `file_clock` is the one that the times of files are compared with, in seconds since 1970.

    1. The folder is a safe one.
    2. Each file.
    3. No two files hold different keys of one scope and tenant.
    """
    try:
        # 1.
        check_folder(folder)
        paths = sorted(path for path in folder.iterdir() if _counts(path.name))
    except FileNotFoundError:
        raise InvalidRequest(f"{folder}: no such folder: make it with `mkdir -p -m 700 {folder}`") from None
    except OSError as error:
        raise InvalidRequest(f"{folder}: {error.strerror}") from None
    # 2.
    before = {stored.path: stored for stored in known}
    keys, problems = [], []
    for path in paths:
        try:
            stored = _read(path, before.get(path), file_clock)
        except InvalidRequest as error:
            problems.append(str(error))
        else:
            keys += [stored] if stored else []
    keys.sort(key=lambda stored: (stored.key.scope, stored.key.tenant, stored.path))
    # 3.
    return KeyFolder(tuple(keys), (*problems, *_clashes(keys)))


def check_folder(folder: Path) -> None:
    """Raise InvalidRequest for what is not a folder, and for one that others can write. Raises OSError."""
    status = folder.stat()
    if not stat.S_ISDIR(status.st_mode):
        raise InvalidRequest(f"{folder}: not a folder")
    if (why := why_unsafe(folder)) and not _is_mounted_secret(folder, status):
        raise InvalidRequest(why)


def save_key(folder: Path, key: DataKey, suffix: str = SUFFIX) -> Path:
    """Write a key to a new file, named after its scope, that appears whole and survives a crash; return its path.

    Raises OSError: FileExistsError if there is such a file already.
    """
    path = path_for(folder, key, suffix)
    draft = folder / f".{secrets.token_hex(8)}.draft"
    try:
        save_new_file(draft, key.to_json().encode())
        os.link(draft, path)  # unlike a rename it never replaces a file
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        with contextlib.suppress(OSError):  # of a disk that is read-only: the first error counts
            draft.unlink()
    sync_directory(folder)
    return path


def path_for(folder: Path, key: DataKey, suffix: str = SUFFIX) -> Path:
    """Return where a key is saved: its file is named after the scope, and the tenant if another one has that file."""
    stem = _stem(key.scope)
    path = folder / f"{stem}{suffix}"
    with contextlib.suppress(OSError, InvalidRequest):  # no such file; or not a key, which stays as it is
        if DataKey.load(path).tenant != key.tenant:
            return folder / f"{stem}%{key.tenant}{suffix}"
    return path


def _stem(scope: str) -> str:
    """Return a scope as the name of a file: one that no other scope has, and that does not begin with a dot."""
    escaped = _ESCAPED.sub(lambda found: f"%{ord(found[0]):02X}", scope)
    if len(escaped) <= _LONGEST_STEM:
        return escaped
    return f"{escaped[:_LONGEST_STEM]}%{hashlib.sha256(scope.encode()).hexdigest()[:16]}"


def _counts(name: str) -> bool:
    return name.endswith((SUFFIX, NEW_SUFFIX)) and not name.startswith(".")


def _read(path: Path, known: StoredKey | None, file_clock: Callable[[], float]) -> StoredKey | None:
    """Return the key in a file, None for a folder and for a file that has just been removed. Raises InvalidRequest."""
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            return None
        if not stat.S_ISREG(status.st_mode):
            raise InvalidRequest(f"{path}: not a regular file: remove it from the key folder")
        stamp = stamp_of(path)
        if known is not None and known.stamp is not None and known.stamp == stamp:
            return known
        key = DataKey.load(path)
    except FileNotFoundError:
        if path.is_symlink():
            raise InvalidRequest(f"{path}: the symbolic link leads to no file: remove or correct it") from None
        return None
    except OSError as error:
        raise InvalidRequest(f"{path}: {error.strerror}") from None
    return StoredKey(path, key, path.name.endswith(NEW_SUFFIX), stamp if has_settled(stamp, file_clock) else None)


def has_settled(stamp: FileStamp, file_clock: Callable[[], float]) -> bool:
    """Report whether a change from now on gives the file or folder another stamp than this one."""
    return stamp is not None and file_clock() - max(stamp[-2:]) / 1e9 > SETTLED_SECONDS


def _clashes(keys: Iterable[StoredKey]) -> Iterator[str]:
    first: dict[tuple[str, str, bool], StoredKey] = {}
    for stored in keys:
        other = first.setdefault((stored.key.scope, stored.key.tenant, stored.is_new), stored)
        if other.key != stored.key:
            yield (
                f"{other.path} and {stored.path.name} hold two keys of one scope, {stored.key.scope}: move away the "
                f"one that no record needs; until a rotation is done, the file of its new key is *{NEW_SUFFIX}"
            )


def _is_mounted_secret(folder: Path, status: os.stat_result) -> bool:
    """Report whether others cannot write a folder in spite of its mode, as Kubernetes mounts a secret: 1777, read-only.

    In a sticky folder nobody replaces a file of ours or root's, and no other file counts.
    """
    ours = status.st_uid in (0, os.geteuid())
    return ours and bool(status.st_mode & stat.S_ISVTX and os.statvfs(folder).f_flag & os.ST_RDONLY)
