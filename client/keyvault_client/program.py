"""A program that takes the place of this process, or runs below it, as if a shell had started it.

The rule of this file: the program finds what `keyvault` was started with. What main() changed for itself goes back
before: standard error, the limit of core files, ignored signals. Its secrets are in its environment alone.

Source: execve(2); POSIX, 2.8.2 (exit status 126 and 127).
"""

import errno
import os
import resource
import signal
from collections.abc import Mapping, Sequence
from typing import NoReturn

from keyvault_api.process import core_limit_at_start
from keyvault_client.errors import InvalidRequest, KeyVaultError, quote
from keyvault_client.terminal import flush_output, give_back_standard_error

IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)
"""Signals that Python ignores when it starts, which a program would inherit."""


class ProgramNotFound(KeyVaultError):
    """There is no such program."""


class ProgramUnusable(KeyVaultError):
    """The program was found, and the system does not run it."""


def find_program(command: Sequence[str], environment: Mapping[str, str]) -> str:
    """Return the path of the program, so that a mistake is found before a secret is read. Raises KeyVaultError."""
    if not command:
        raise InvalidRequest("no program: give it after --, as in `keyvault run --env A=prod/a -- CMD ARGUMENT`")
    from shutil import which  # here, because every command imports this module

    found = which(command[0], path=environment.get("PATH", os.defpath))
    if found is None:
        if "/" in command[0] and os.path.exists(command[0]):  # noqa: PTH110 - the word as it was typed
            raise ProgramUnusable(f"{quote(command[0])} is not an executable file: check its path and mode")
        raise ProgramNotFound(f"program {quote(command[0])} not found: check its name and PATH")
    return found


def become(path: str, command: Sequence[str], environment: Mapping[str, str]) -> NoReturn:
    """Replace this process by the program. Raises KeyVaultError if the system does not run it."""
    flush_output()
    give_back_standard_error()
    resource.setrlimit(resource.RLIMIT_CORE, core_limit_at_start())
    for number in IGNORED_BY_PYTHON:
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execve(path, list(command), dict(environment))  # noqa: S606 - no shell is the point
    except OSError as error:
        raise why_not_started(path, error) from None


def why_not_started(path: str, error: OSError) -> KeyVaultError:
    """Return the error for a program that the system did not run."""
    if error.errno == errno.E2BIG:
        return ProgramUnusable(
            f"{path}: the arguments and variables are more than a program can take: read large secrets into files"
        )
    kind = ProgramNotFound if error.errno == errno.ENOENT else ProgramUnusable
    return kind(f"{path}: cannot be run: {error.strerror}")
