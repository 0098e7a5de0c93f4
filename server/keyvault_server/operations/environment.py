"""Settings from the command line and the environment: every variable is KEYVAULT_ and the setting's name in capitals.

The rule of this file: no variable may leave a server less safe than was meant. So unknown KEYVAULT_ variables are
refused, except those of the `keyvault` command and of Kubernetes, and so are empty ones and those in small letters. An
error names the setting and the rule without the value.
"""

import difflib
import os
import re
from collections.abc import Mapping

from pydantic import ValidationError

from keyvault_server.core.errors import OperatorError
from keyvault_server.operations.protections import refuse_unprotected
from keyvault_server.operations.settings import PREFIX, Settings

CLIENT_VARIABLES = frozenset(
    PREFIX + name
    for name in (
        "ADDRESS",
        "TIMEOUT",
        "CA",
        "CERTIFICATE",
        "PRIVATE_KEY",
        "INSECURE",
        "TOKEN_FILE",
        "STATE",
        "SERVER_NAME",
    )
)
"""Variables of the `keyvault` command, which may be set in the same shell."""

# What Kubernetes, like Docker's links before, sets in every pod for a Service `keyvault` or `keyvault-...`.
_SERVICE_LINK = re.compile(
    r"""KEYVAULT (_[A-Z0-9_]+)? _ (
        SERVICE_HOST=.* | SERVICE_PORT (_[A-Z0-9_]+)? =.*
      | PORT=(tcp|udp|sctp)://.+ | PORT_[0-9]+_(TCP|UDP|SCTP) (_PROTO|_PORT|_ADDR)? =.*
    )""",
    re.VERBOSE | re.DOTALL,
)


class BadSettings(OperatorError):
    """The settings cannot be used; one line says which and why."""


def load_settings(**given: object) -> Settings:
    """Return the settings: those given (None: not given), else those of the environment, else the defaults.

    1. No variable of ours is unknown or empty.
    2. Each value has its type and range, and the values agree with each other.
    3. A server that other machines can reach is protected.

    Raises BadSettings, Unprotected.
    """
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    # 1.
    _refuse_unknown(os.environ, known | CLIENT_VARIABLES)  # noqa: TID251 - the one reader of the environment
    _refuse_empty(os.environ, known)  # noqa: TID251
    # 2.
    settings = _validated({name: value for name, value in given.items() if value is not None})
    # 3.
    refuse_unprotected(settings)
    return settings


def _refuse_unknown(environment: Mapping[str, str], known: set[str]) -> None:
    for name, value in sorted(environment.items()):
        if not name.upper().startswith(PREFIX) or name in known or _SERVICE_LINK.fullmatch(f"{name}={value}"):
            continue
        near = difflib.get_close_matches(name, known, 1, cutoff=0.85)  # they all begin alike
        hint = f"did you mean {near[0]}?" if near else "docs/settings.md lists them all"
        raise BadSettings(f"unknown setting {name}: {hint}")


def _refuse_empty(environment: Mapping[str, str], known: set[str]) -> None:
    empty = sorted(name for name in known if environment.get(name) == "")
    if empty:
        raise BadSettings(f"{empty[0]} is empty: give it a value, or unset it")


def _validated(given: dict[str, object]) -> Settings:
    try:
        return Settings(**given)  # type: ignore[arg-type] # pydantic checks what comes from the command line
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        name = ".".join(str(part) for part in first["loc"]) or "settings"
        raise BadSettings(f"{name}: {first['msg'].removeprefix('Value error, ')}") from None
    except ValueError as error:  # pydantic-settings: a variable that has to be JSON is not
        field = re.search(r'field "(\w+)"', str(error))
        raise BadSettings(f"{field[1] if field else 'a setting'}: must be JSON, as docs/settings.md shows") from None
