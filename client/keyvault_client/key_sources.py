"""Where the command `keyvault` takes keys from: a file, else a folder with a key for each name.

The rule of this file: nothing here needs the parser of arguments, so that a plain `read` starts without it.
"""

import os
import stat
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from keyvault_api.files import stamp_of
from keyvault_client.errors import InvalidRequest, RecordDamaged
from keyvault_client.key_ring import KeyRing
from keyvault_client.keys import DataKey
from keyvault_client.records import Record
from keyvault_client.terminal import load_key
from keyvault_client.user_folders import config_folder


@dataclass(frozen=True, slots=True)
class ChosenKeys:
    """The keys that a command may use: the one that the user gave, else those in a folder."""

    key: DataKey | None
    ring: KeyRing | None

    def find(self, key_id: str, *, without: DataKey | None = None) -> DataKey:
        """Return the one key for this name; `without` does not count. Raises InvalidRequest."""
        if self.ring is not None:
            return self.ring.find(key_id, without=without)
        assert self.key is not None
        return self.key

    def refuse_without_key(self, scope: str, *, without: DataKey | None = None) -> None:
        """Raise KeyNotFound, InvalidRequest if the folder has no key for a name or prefix; `without` does not count."""
        if self.ring is not None:
            self.ring.candidates(scope, without=without)

    def for_names(self, names: Iterable[str]) -> Mapping[str, DataKey] | Sequence[str]:
        """Return these names as `KeyVault.read_many` takes them: with the key, or alone if the client has a ring."""
        return list(dict.fromkeys(names)) if self.key is None else dict.fromkeys(names, self.key)

    def open(self, key_id: str, operate: Callable[[DataKey], Record]) -> Record:
        """Return what the first key opens that is the record's. Raises RecordDamaged if none is, KeyNotFound."""
        if self.ring is None:
            return operate(self.find(key_id))
        failure: RecordDamaged | None = None
        for one in self.ring.candidates(key_id):
            try:
                return operate(one.key)
            except RecordDamaged as error:
                failure = failure or RecordDamaged(f"{error} (tried {one.path})")
        assert failure is not None
        raise failure


def choose_keys(
    scope: str,
    file: Path | None,
    folder: str | None,
    *,
    without: DataKey | None = None,
    output: Path | None = None,
) -> ChosenKeys:
    """Return the key in the file, else those for a name or prefix in the folder, else in the user's.

    `without` is a key that does not count. Raises InvalidRequest, KeyNotFound among them: also if `output`, or standard
    output, would go to a key file.
    """
    if file is not None:
        refuse_output_file(output, [file])
        return ChosenKeys(load_key(file), None)
    ring = open_ring(folder, f"no key for {scope}: give --key FILE, or")
    refuse_output_to(ring)
    refuse_output_file(output, [one.path for one in ring.entries()])
    chosen = ChosenKeys(None, ring)
    chosen.refuse_without_key(scope, without=without)
    return chosen


def open_ring(folder: str | None, otherwise: str) -> KeyRing:
    """Return the keys of this folder, else of the user's. Raises InvalidRequest, which may begin with `otherwise`."""
    path = folder_of(folder, otherwise)
    if folder is None and stamp_of(path) is None:
        raise InvalidRequest(f"{otherwise} make the key folder: `mkdir -p -m 700 {path}`")
    return KeyRing(path)


def open_ring_if_there(folder: str | None) -> KeyRing | None:
    """Return the keys of this folder, else of the user's, else None if that is not there. Raises InvalidRequest."""
    path = folder_if_there(folder)
    return KeyRing(path) if path else None


def folder_of(given: str | None, otherwise: str) -> Path:
    """Return the path of this folder, else of the user's. Raises InvalidRequest that begins with `otherwise`."""
    if given == "":
        raise InvalidRequest(f"{otherwise} set KEYVAULT_KEYS, which is empty, to a key folder")
    folder = Path(given) if given else default_folder()
    if folder is None:
        raise InvalidRequest(f"{otherwise} set KEYVAULT_KEYS to a key folder: without HOME there is no default one")
    return folder


def default_folder() -> Path | None:
    """Return where a user's keys are; None without a home."""
    config = config_folder()
    return config / "keys" if config else None


def folder_if_there(given: str | None) -> Path | None:
    """Return the path of this folder, else of the user's, else None if that is not there."""
    if given:
        return Path(given)
    default = default_folder() if given is None else None
    return default if default and stamp_of(default) else None


def refuse_output_file(output: Path | None, keys: Iterable[Path]) -> None:
    """Raise InvalidRequest if the output would replace one of these key files."""
    for key in keys:
        if output is not None and output.exists() and output.samefile(key):
            raise InvalidRequest(f"--output {output} is the key file {key}: name another")


def refuse_output_to(ring: KeyRing) -> None:
    """Raise InvalidRequest if standard output would go to a key file of this folder."""
    if sys.stdout is None:
        return
    output = os.fstat(sys.stdout.fileno())
    if not stat.S_ISREG(output.st_mode):
        return
    for one in ring.entries():
        if os.path.samestat(output, one.path.stat()):
            raise InvalidRequest(f"standard output is the key file {one.path}: send it to another file")
