"""Settings from the command line, the environment and a file, in this order: the first one that has a setting counts.

Every variable is KEYVAULT_ and the setting's name in capitals.

The rule of this file: no variable may leave a server less safe than was meant. So unknown KEYVAULT_ variables are
refused, except those of the `keyvault` command and of Kubernetes, and so are empty ones and those in small letters. A
refusal is one line that names everything that is wrong, as far as it can be seen: each setting as it was given, as a
variable or a flag, and the rule. Of the values it shows the paths of files alone.
"""

import os
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from pydantic import ValidationError

from keyvault_server.core.errors import OperatorError
from keyvault_server.operations.config_file import hint_for, read_config, wrong_in_config
from keyvault_server.operations.protections import missing_protections, refuse_unprotected
from keyvault_server.operations.settings import PREFIX, Settings

CLIENT_VARIABLES = frozenset(
    PREFIX + name
    for name in (
        "ADDRESS",
        "TIMEOUT",
        "TLS",
        "CA",
        "CERTIFICATE",
        "PRIVATE_KEY",
        "INSECURE",
        "TOKEN_FILE",
        "STATE",
        "SERVER_NAME",
        "KEY",
        "KEYS",
        "EDITOR",
        "PROFILE",
    )
)
"""Variables of the `keyvault` command, which may be set in the same shell."""
CONFIG = PREFIX + "CONFIG"
"""Variable that names the file of settings."""

# What Kubernetes, like Docker's links before, sets in every pod for a Service `keyvault` or `keyvault-...`.
_SERVICE_LINK = re.compile(
    r"""KEYVAULT (_[A-Z0-9_]+)? _ (
        SERVICE_HOST=.* | SERVICE_PORT (_[A-Z0-9_]+)? =.*
      | PORT=(tcp|udp|sctp)://.+ | PORT_[0-9]+_(TCP|UDP|SCTP) (_PROTO|_PORT|_ADDR)? =.*
    )""",
    re.VERBOSE | re.DOTALL,
)


_LONGEST_PATH = 100  # a JWT and a private key of one line have more


class BadSettings(OperatorError):
    """The settings cannot be used; one line says which and why."""


def load_settings(config: Path | None = None, /, **given: object) -> Settings:
    """Return the settings: those given (None: not given), else those of the environment, the file, the defaults.

    The file is `config`, or the one that KEYVAULT_CONFIG names.

    1. No variable of ours is unknown or empty, nor a name in the file.
    2. Each value has its type and range, and the values agree with each other.
    3. A server that other machines can reach is protected.

    Raises BadSettings, BadConfigFile, Unprotected: one line for all three, where settings that cannot be read hide what
    they protect.
    """
    flags = {name: value for name, value in given.items() if value is not None}
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    # 1.
    environment = os.environ  # noqa: TID251 - the one reader of the environment
    wrong = [*_unknown(environment, known | CLIENT_VARIABLES | {CONFIG})]
    empty = _empty(environment, known | {CONFIG})
    wrong += [f"{name} is empty: give it a value, or unset it" for name in empty]
    file = config or (Path(environment[CONFIG]) if environment.get(CONFIG) else None)
    content = read_config(file) if file else {}
    wrong += wrong_in_config(file, content) if file else []
    in_file = {name: value for name, value in content.items() if PREFIX + name.upper() in known - environment.keys()}
    # 2.
    shown = {name: f"{file}: {name}" for name in in_file} | {name: f"--{name.replace('_', '-')}" for name in flags}
    try:
        settings = Settings(**in_file | flags)  # type: ignore[arg-type] # pydantic checks what comes from outside
    except ValidationError as error:
        raise BadSettings("; ".join([*wrong, *_sentences(error, shown, empty)])) from None
    # 3.
    if wrong:
        raise BadSettings("; ".join([*wrong, *missing_protections(settings)]))
    refuse_unprotected(settings)
    return settings


def wants_traceback() -> bool:
    """Return whether KEYVAULT_TRACEBACK is true, however little else of the settings can be read."""
    return os.environ.get(PREFIX + "TRACEBACK", "").lower() in {"1", "on", "t", "true", "y", "yes"}  # noqa: TID251


def environment_for_worker(metrics: Path | None) -> dict[str, str]:
    """Return this process's environment for a worker, with the folder where prometheus_client keeps its numbers."""
    added = {} if metrics is None else {"PROMETHEUS_MULTIPROC_DIR": str(metrics)}
    return os.environ | added  # noqa: TID251


def sudo_uid() -> int | None:
    """Return the user who ran sudo, None where nobody did. A user can set it to anything, so it proves nothing."""
    text = os.environ.get("SUDO_UID", "")  # noqa: TID251
    return int(text) if re.fullmatch("[0-9]{1,10}", text) else None


def _unknown(environment: Mapping[str, str], known: set[str]) -> Iterator[str]:
    for name, value in sorted(environment.items()):
        if not name.upper().startswith(PREFIX) or name in known or _SERVICE_LINK.fullmatch(f"{name}={value}"):
            continue
        yield f"unknown setting {name}: {hint_for(name, known, 0.85)}"  # they all begin alike


def _empty(environment: Mapping[str, str], known: set[str]) -> list[str]:
    return sorted(name for name in known if environment.get(name) == "")


def _sentences(error: ValidationError, given: Mapping[str, str], empty: Collection[str]) -> Iterator[str]:
    """Yield what is wrong, a sentence for each setting that is not empty.

    `given` has how to show settings that are not from a variable.
    """
    for found in error.errors(include_url=False, include_context=False):
        name, *inside = [str(part) for part in found["loc"]] or [""]
        variable = PREFIX + name.upper()
        if variable in empty:
            continue
        shown = given.get(name, variable)
        if found["type"] == "path_not_file":
            yield f"{shown}: {_why_no_file(str(found['input']))}"
        else:
            where = f"{'.'.join([shown, *inside])}: " if name else ""
            yield f"{where}{found['msg'].removeprefix('Value error, ')}"


def _why_no_file(text: str) -> str:
    """Say why a path is none of a file. It is shown, unless it may be the file's content, such as a key or a token."""
    if len(text) > _LONGEST_PATH or not text.isprintable():
        return f"its value, {len(text)} characters, is not the path of a file"
    path = Path(text)
    return f"{text}: is not a file" if path.exists() else f"{text}: no such file"
