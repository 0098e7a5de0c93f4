"""Settings in a TOML file, under their names in small letters: `listen = "127.0.0.1:50051"`.

The rule of this file: who can write it decides what the server protects, so other users must not, and a name that
is not a setting is refused.
"""

import difflib
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from keyvault_server.core.errors import OperatorError
from keyvault_server.disk.permissions import refuse_unsafe
from keyvault_server.operations.settings import PREFIX, Settings

MAX_FILE = 1024 * 1024
"""Most bytes in the file."""


class BadConfigFile(OperatorError):
    """The file cannot be read, or is not TOML."""


def read_config(path: Path) -> dict[str, object]:
    """Return what the file has, not validated yet. Raises BadConfigFile, UnsafeFile."""
    try:
        with path.open("rb") as file:
            refuse_unsafe(path, file.fileno())
            content = file.read(MAX_FILE + 1)
    except OSError as error:
        raise BadConfigFile(f"{path}: {error.strerror}") from None
    if len(content) > MAX_FILE:
        raise BadConfigFile(f"{path}: larger than {MAX_FILE} bytes")
    try:
        return tomllib.loads(content.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadConfigFile(f"{path}: not TOML: {error}") from None


def wrong_in_config(path: Path, content: Mapping[str, object]) -> Iterator[str]:
    """Yield a sentence for each name that is not a setting, and each value that no setting takes from a file."""
    for name, value in content.items():
        if name not in Settings.model_fields:
            hint = hint_for(name.lower().removeprefix(PREFIX.lower()), Settings.model_fields, 0.6)
            yield f"{path}: unknown setting {name[:60]!a}: {hint}"
        elif value == "":
            yield f"{path}: {name} is empty: give it a value, or leave it out"
        elif name == "socket_mode" and not isinstance(value, str):  # 600 is not 0o600
            yield f'{path}: socket_mode must be a text in quotes, such as "0600"'


def hint_for(name: str, known: Iterable[str], cutoff: float) -> str:
    """Return what to do about an unknown setting: the known one that is like it, as difflib counts, or the page."""
    near = difflib.get_close_matches(name, known, 1, cutoff)
    return f"did you mean {near[0]}?" if near else "docs/settings.md lists them all"
