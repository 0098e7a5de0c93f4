"""`keyvault read` without cyclopts and without the rest of the library: scripts and containers begin with one.

The rules of this file:

* It takes a command line if it knows each word and each KEYVAULT_ variable, and finds nothing to refuse. It leaves any
  other to cli_app.py, which says what is wrong. tests/client/test_quick_read.py compares both.
* What it takes means the same as in cli_records.py and connection_options.py.
"""

import asyncio
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from json import dumps
from pathlib import Path
from typing import Any

from keyvault_api.files import stamp_of
from keyvault_client.key_choice import KeyChoice
from keyvault_client.key_sources import ChosenKeys, choose_keys, folder_if_there
from keyvault_client.profiles import config_file
from keyvault_client.reading import Reader
from keyvault_client.records import Record, check_key_id
from keyvault_client.revision_file import RevisionFile, default_path
from keyvault_client.seen_revisions import SeenRevisions
from keyvault_client.terminal import write_plaintext
from keyvault_client.tls import TLS
from keyvault_client.tokens import TokenFile
from keyvault_client.transport import Transport, deadline_in

ADDRESS, TIMEOUT = "127.0.0.1:50051", 10.0
"""Defaults of the options."""

Options = dict[str, Any]
"""Values by the names of their parameters; "key_id" is that of the record."""


def _text(value: str) -> str | None:
    return value or None


def _file(value: str) -> Path | None:
    return Path(value) if value and Path(value).is_file() else None


def _seconds(value: str) -> float | None:
    return float(value) or None if re.fullmatch(r"\d{1,4}(\.\d{1,3})?", value, re.ASCII) else None


_OPTIONS: dict[str, Callable[[str], Any]] = {
    "key": _file,
    "keys": str,
    "address": _text,
    "timeout": _seconds,
    "ca": _file,
    "certificate": _file,
    "private_key": _file,
    "token_file": _file,
    "server_name": _text,
    "state": str,
}
"""Options with a value and, by the same names, variables; each returns None for a value that it leaves to cyclopts."""
_FLAGS = ("raw", "json", "tls", "no_state")
_VARIABLES = {f"KEYVAULT_{name.upper()}": name for name in _OPTIONS}


def run(arguments: Sequence[str], environment: Mapping[str, str]) -> bool:
    """Run `read` with these arguments. Return False, and do nothing, for a line that is left to cyclopts.

    Raises KeyVaultError, OSError.
    """
    options = parse(arguments, environment)
    if options is None:
        return False
    check_key_id(options["key_id"])
    chosen = choose_keys(options["key_id"], options.get("key"), options.get("keys"))
    record = asyncio.run(_read(options["key_id"], chosen, options))
    write_record(record, None, raw=options.get("raw", False), json=options.get("json", False))
    return True


def write_record(record: Record, output: Path | None, *, raw: bool, json: bool) -> None:
    """Write what `read` shows of a record, to a file or to standard output. Raises KeyVaultError, OSError."""
    data = f"{dumps(record.to_json())}\n".encode() if json else record.plaintext
    write_plaintext(data, output, raw=raw)


def parse(arguments: Sequence[str], environment: Mapping[str, str]) -> Options | None:
    """Return the options that differ from their defaults; None for what is left to cyclopts."""
    if any(name.startswith("KEYVAULT_") and name not in _VARIABLES for name in environment):
        return None
    profiles = config_file()
    typed = None if profiles and stamp_of(profiles) else _words(arguments)
    if typed is None:
        return None
    found = {name: environment[variable] for variable, name in _VARIABLES.items() if variable in environment} | typed
    options = {name: _OPTIONS[name](value) if name in _OPTIONS else value for name, value in found.items()}
    return None if None in options.values() or _is_refused(options) else options


def _words(arguments: Sequence[str]) -> Options | None:
    """Return the values as they were typed; None if one is missing, is there twice, or looks like an option."""
    found: Options = {}
    words = iter(arguments)
    for word in words:
        name, value = _named(word, words)
        if name in found or name is None or (isinstance(value, str) and value.startswith("-")):
            return None
        found[name] = value
    return found


def _named(word: str, following: Iterator[str]) -> tuple[str | None, str | bool]:
    """Return the name and the value that a word begins; no name for an option that is not known."""
    if not word.startswith("--"):
        return "key_id", word
    name = word.removeprefix("--").replace("-", "_")
    if "_" not in word and name in _OPTIONS:
        return name, next(following, "-")
    return (name, True) if "_" not in word and name in _FLAGS else (None, False)


def _is_refused(options: Options) -> bool:
    secured = any(name in options for name in ("tls", "ca", "certificate"))
    return (
        "key_id" not in options
        or not ("key" in options or _has_folder(options.get("keys")))
        or {"raw", "json"} <= options.keys()
        or ("certificate" in options) is not ("private_key" in options)
        or ("server_name" in options and not secured)
    )


def _has_folder(given: str | None) -> bool:
    """Return whether there is a key folder, the given one or the user's."""
    folder = folder_if_there(given)
    return folder is not None and stamp_of(folder) is not None


async def _read(key_id: str, chosen: ChosenKeys, options: Options) -> Record:
    """Read with one reader, as a KeyVault with these options does. Raises KeyVaultError."""
    address = options.get("address", ADDRESS)
    secured = any(name in options for name in ("tls", "ca", "certificate"))
    files = TLS(*(options.get(name) for name in ("ca", "certificate", "private_key", "server_name")))
    token = TokenFile(options["token_file"]) if "token_file" in options else None
    state = None if "no_state" in options else options.get("state", default_path())
    transport = Transport(address, files if secured else None, insecure=False, token=token)
    try:
        seen = SeenRevisions(1, RevisionFile(state, address) if state else None)
        deadline = deadline_in(options.get("timeout", TIMEOUT))
        reader = Reader(transport, seen)
        return await KeyChoice(chosen.ring).use(key_id, chosen.key, lambda owner: reader.read(key_id, owner, deadline))
    finally:
        await transport.close()
