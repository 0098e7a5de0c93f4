"""How `keyvault-server` ends: with one line on standard error and an exit status, whatever went wrong.

The rules of this file:

- A refusal is one line and exit 1, bad usage one line and exit 2.
- An error that nobody expected is a bug: one line and exit 1 too. It names the error's type and its place in our source
  and not its text, which may have a secret. KEYVAULT_TRACEBACK=true shows the rest, and `serve` logs it.
"""

import contextlib
import io
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn, TextIO

from cyclopts import CycloptsError

from keyvault_api.printable import printable
from keyvault_server.core.errors import OperatorError, VaultError
from keyvault_server.core.ports import HeadChanged
from keyvault_server.operations.environment import BadSettings, wants_traceback

_INTERRUPTED = 130  # 128 + SIGINT, as a shell has it

EXPECTED = (CycloptsError, OperatorError, VaultError)
"""Errors whose text is a sentence for the operator."""

_log = logging.getLogger(__name__)


def end_in_one_line(command: Callable[[], object]) -> None:
    """Run a command; end the process with one line if it raises."""
    try:
        _run(command)
    except EXPECTED as error:
        refuse(str(error), 2 if isinstance(error, CycloptsError | BadSettings) else 1)
    except HeadChanged:
        refuse("the record was changed at the same time: retry", 1)
    except OSError as error:
        refuse(explain_os_error(error), 1)
    except KeyboardInterrupt:
        refuse("interrupted", _INTERRUPTED)
    except Exception as error:
        refuse(_unexpected(error), 1)


@contextlib.contextmanager
def bugs_logged() -> Iterator[None]:
    """Log the traceback of an unexpected error of the body: a server that has run for weeks will not fail on demand."""
    try:
        yield
    except (*EXPECTED, HeadChanged, OSError):
        raise
    except Exception:
        _log.critical("unexpected error", exc_info=True)
        raise


def refuse(sentence: str, code: int) -> NoReturn:
    """Write the one line, with what a terminal would not show as escapes, and exit."""
    sys.stderr.write(f"keyvault-server: {printable(' '.join(sentence.split()))}\n")
    sys.exit(code)


def explain_os_error(error: OSError) -> str:
    """Return which file the system refused, and why."""
    return f"{error.filename or 'output'}: {error.strerror or type(error).__name__}"


def _run(command: Callable[[], object]) -> None:
    """Run the command with valid streams, and notice output that cannot be written while there is time to say so."""
    sys.stdout, sys.stderr = sys.stdout or _nowhere(), sys.stderr or _nowhere()
    if isinstance(sys.stdout, io.TextIOWrapper):  # a planted name must not end the report that names it
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        command()
    finally:
        try:
            sys.stdout.flush()
        except OSError:  # drop the rest, or Python would print a traceback at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise


def _nowhere() -> TextIO:
    """Return a replacement for a stream that was closed before we began."""
    return Path(os.devnull).open("w")


def _unexpected(error: Exception) -> str:
    """Return a sentence about a bug; print its traceback if that is wanted."""
    sentence = f"unexpected {type(error).__name__} in {_place(error)}: a bug, please report it"
    if not wants_traceback():
        return f"{sentence} (KEYVAULT_TRACEBACK=true prints the traceback)"
    traceback.print_exception(error)
    return sentence


def _place(error: Exception) -> str:
    """Return the last of our own lines that the error passed, or the last of any."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "keyvault_" in frame.filename]
    return next((f"{Path(frame.filename).name} line {frame.lineno}" for frame in reversed(ours or frames)), "unknown")
