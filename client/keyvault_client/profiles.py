"""Profiles: options under a name, in a file of the user: how to connect, and where the keys are.

The file is TOML, `keyvault/config.toml` in XDG_CONFIG_HOME or ~/.config:

    default_profile = "dev"

    [profile.dev]
    address = "127.0.0.1:50051"

The rules of this file: its writer chooses the server that gets keys, so a file that other users can write is
refused, as ssh does. A name that is not an option is an error, because an option that is ignored may be `ca`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keyvault_api.files import why_unsafe
from keyvault_client.errors import InvalidRequest, quote
from keyvault_client.user_folders import config_folder

OPTIONS: dict[str, tuple[type, ...]] = {
    "address": (str,),
    "timeout": (int, float),
    "ca": (Path,),
    "certificate": (Path,),
    "private_key": (Path,),
    "token_file": (Path,),
    "tls": (bool,),
    "server_name": (str,),
    "insecure": (bool,),
    "state": (Path,),
    "keys": (Path,),
}
"""Options that a profile may have, as the command names them with _ for -, and their types; a Path is a string."""
MAX_FILE = 1024 * 1024
"""Most bytes in the file."""


@dataclass(frozen=True)
class Profile:
    """The options of one profile, as they would be typed; relative paths begin at the file's folder."""

    file: Path
    name: str
    options: dict[str, str]

    def where(self, option: str) -> str:
        """Return how an error message names an option."""
        return f"{self.file}: [profile.{self.name}] {option}"


def config_file() -> Path | None:
    """Return where the file is or would be; None without a home."""
    folder = config_folder()
    return folder / "config.toml" if folder else None


def load_profile(name: str | None) -> Profile | None:
    """Return a profile, or the default one; None if no name is given and there is no default. Raises InvalidRequest."""
    file = config_file()
    content = _read(file) if file else None
    if file is None or content is None:
        if name is None:
            return None
        raise InvalidRequest(f"no profile {quote(name)}: {file or 'the file of profiles'} does not exist")
    profiles = _profiles(file, content)
    name = content.get("default_profile") if name is None else name
    if name is None:
        return None
    if name not in profiles:
        known = f"it has {', '.join(sorted(profiles))}" if profiles else "it has none"
        raise InvalidRequest(f"no profile {quote(str(name))} in {file}: {known}")
    return Profile(file, name, _options(file, name, profiles[name]))


def _read(file: Path) -> dict[str, Any] | None:
    """Return the file's content, None if there is none. Raises InvalidRequest."""
    try:
        with file.open("rb") as opened:
            if why := why_unsafe(file, opened.fileno()):
                raise InvalidRequest(why)
            text = opened.read(MAX_FILE + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if len(text) > MAX_FILE:
        raise InvalidRequest(f"{file}: larger than {MAX_FILE} bytes")
    import tomllib  # here, because most people have no such file

    try:
        return tomllib.loads(text.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"{file}: not TOML: {error}") from None


def _profiles(file: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    _refuse_unknown(f"{file}: ", content, ("default_profile", "profile"))
    profiles = content.get("profile", {})
    if not isinstance(profiles, dict) or not all(isinstance(one, dict) for one in profiles.values()):
        raise InvalidRequest(f"{file}: profile must be tables, such as [profile.dev]")
    if not isinstance(content.get("default_profile", ""), str):
        raise InvalidRequest(f"{file}: default_profile must be the name of a profile, in quotes")
    return profiles


def _options(file: Path, name: str, table: Mapping[str, Any]) -> dict[str, str]:
    """Return the options as text. Raises InvalidRequest for an unknown one, or a value of another type."""
    where = f"{file}: [profile.{name}] "
    _refuse_unknown(where, table, OPTIONS)
    return {option: _text(where, file, option, value) for option, value in table.items()}


def _text(where: str, file: Path, option: str, value: object) -> str:
    kinds = OPTIONS[option]
    if kinds == (bool,) and isinstance(value, bool):
        return str(value).lower()
    if kinds == (int, float) and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if kinds == (str,) and isinstance(value, str):
        return value
    if kinds == (Path,) and isinstance(value, str):
        return str(file.parent / Path(value).expanduser()) if value else value
    wanted = "true or false" if kinds == (bool,) else "a number" if float in kinds else "a text in quotes"
    raise InvalidRequest(f"{where}{option}: must be {wanted}")


def _refuse_unknown(where: str, table: Iterable[str], known: Iterable[str]) -> None:
    for name in table:
        if name not in known:
            import difflib

            near = difflib.get_close_matches(name, list(known), 1)
            hint = f"did you mean {near[0]}?" if near else f"expected {', '.join(known)}"
            raise InvalidRequest(f"{where}unknown name {quote(name)}: {hint}")
