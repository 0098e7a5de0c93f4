"""Highest proved revisions in a file, so that a program that runs again notices a store that was rolled back.

The file is JSON {"revisions": {NAME: REVISION}}, mode 0600, the entries used last at the end. A NAME is 128 bits of
HMAC-SHA256 under the record's data key over server address, tenant and key_id. Hence the file shows no names, and a
fresh server with fresh keys on the same address has a fresh memory.

The rules of this file:

* A revision only rises. Runs at the same time merge what they know, one after the other, under a lock.
* A file that cannot be read or written is a warning, because the call itself is not affected. Invalid content is an
  error before the call: to ignore it would hide what the file is for.
"""

import contextlib
import hashlib
import hmac
import json
import logging
import os
import struct
from collections.abc import Iterator
from pathlib import Path

from keyvault_api.envelope import MAX_REVISION
from keyvault_client.errors import InvalidRequest
from keyvault_client.file_locks import wait_for_lock
from keyvault_client.keys import DataKey
from keyvault_client.user_folders import state_folder

MAX_ENTRIES = 10_000
"""Names in the file; beyond them those that were used longest ago are forgotten."""
MAX_FILE = 4 * 1024 * 1024
"""Most bytes in the file."""

_LABEL = b"keyvault: revision file v1"
_log = logging.getLogger(__name__)


def default_path() -> Path | None:
    """Return where a user's programs keep such a file; None without a home."""
    state = state_folder()
    return state / "revisions.json" if state else None


class RevisionFile:
    """The file at a path, for one server address. It is read at the first use, and written when a revision rises."""

    def __init__(self, path: str | Path, address: str, *, max_entries: int = MAX_ENTRIES) -> None:
        self._path = Path(path)
        self._address = address
        self._max_entries = max_entries
        self._known: dict[str, int] | None = None
        self._warned = False
        self._noted: dict[str, int] = {}
        self._together = False

    def get(self, key: DataKey, key_id: str) -> int:
        """Return the highest revision of this record under this key, 0 if none is known. Raises InvalidRequest."""
        if self._known is None:
            self._known = self._read_or_warn()
        return self._known.get(self._name(key, key_id), 0)

    def note(self, key: DataKey, key_id: str, revision: int) -> None:
        """Keep a revision, unless a higher one is kept already. A failure is a warning: the call has succeeded."""
        name = self._name(key, key_id)
        if self._known is not None and self._known.get(name, 0) >= revision:
            return
        self._noted[name] = max(revision, self._noted.get(name, 0))
        if not self._together:
            self._write_noted()

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Write once, at the end of the block, what is noted in it. The block must not await."""
        self._together = True
        try:
            yield
        finally:
            self._together = False
            if self._noted:
                self._write_noted()

    def _write_noted(self) -> None:
        noted, self._noted = self._noted, {}
        try:
            with self._locked():
                # 1. What other runs wrote in the meantime.
                known = self._read()
                # 2. Ours, as the ones used last.
                for name, revision in noted.items():
                    known[name] = max(revision, known.pop(name, 0))
                for oldest in list(known)[: -self._max_entries]:
                    del known[oldest]
                # 3. Old or new content, whole, whatever happens.
                self._replace(json.dumps({"revisions": known}).encode())
            self._known = known
        except (OSError, InvalidRequest) as error:
            self._warn(error)

    def _name(self, key: DataKey, key_id: str) -> str:
        parts = [part.encode() for part in (self._address, key.tenant, key_id)]
        message = _LABEL + b"".join(struct.pack(">H", len(part)) + part for part in parts)
        return hmac.digest(key.secret(), message, hashlib.sha256)[:16].hex()

    def _read_or_warn(self) -> dict[str, int]:
        try:
            return self._read()
        except OSError as error:
            self._warn(error)
            return {}

    def _read(self) -> dict[str, int]:
        try:
            with self._path.open("rb") as file:
                content = file.read(MAX_FILE + 1)
        except FileNotFoundError:
            return {}
        known = _parse(content) if len(content) <= MAX_FILE else None
        if known is None:
            raise InvalidRequest(
                f"{self._path}: not a file of revisions: remove it to start over, which forgets them; "
                "--no-state does without it"
            )
        return known

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lock, a file of its own: the other one is replaced. Raises OSError."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(f"{self._path}.lock", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            wait_for_lock(descriptor, f"{self._path}.lock")
            yield
        finally:
            os.close(descriptor)

    def _replace(self, content: bytes) -> None:
        new = f"{self._path}.new"
        with contextlib.suppress(FileNotFoundError):
            Path(new).unlink()  # of a run that was killed; its mode may be another
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(new).replace(self._path)

    def _warn(self, error: OSError | InvalidRequest) -> None:
        if not self._warned:
            self._warned = True
            cause = f"{error.filename or self._path}: {error.strerror}" if isinstance(error, OSError) else str(error)
            _log.warning("cannot keep revisions across runs, a rolled back store may go unnoticed: %s", cause)


def _parse(content: bytes) -> dict[str, int] | None:
    """Return the file's entries, None if it is not such a file."""
    try:
        revisions = json.loads(content)["revisions"]
        entries = list(revisions.items())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    if not all(type(revision) is int and 1 <= revision <= MAX_REVISION for _, revision in entries):
        return None
    return dict(entries)
