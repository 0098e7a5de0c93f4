"""Exit codes of the command `keyvault`: one for each thing that a script can do about a failure.

The rule of this file: the type of the exception decides, by its nearest ancestor in the table, and one thing more: an
InvalidRequest without a reason was found before anything was sent, so it is bad usage; with one, the server refused.
"""

from enum import IntEnum

from keyvault_client.errors import (
    Busy,
    Denied,
    InvalidRequest,
    KeyVaultError,
    NotAuthorized,
    NotFound,
    OutcomeUnknown,
    Unavailable,
    WrongRevision,
)
from keyvault_client.program import ProgramNotFound, ProgramUnusable


class ExitCode(IntEnum):
    """What a script learns from a run; the names are those of --help and of docs/command.md."""

    SUCCESS = 0
    REFUSED = 1
    USAGE = 2
    NOT_FOUND = 3
    CONFLICT = 4
    DENIED = 5
    UNAVAILABLE = 6
    OUTCOME_UNKNOWN = 7
    NOT_STARTED = 126
    """As a shell reports a program that the system does not run."""
    PROGRAM_NOT_FOUND = 127
    """As a shell reports it."""
    INTERRUPTED = 130
    """As a shell reports SIGINT."""


HELP = (
    "Exit codes: 0 success, 1 refused, 2 usage, 3 not found, 4 conflict, 5 denied, 6 unavailable (nothing was written: "
    "try again later), 7 outcome unknown (read the record to see). One line on standard error says what is wrong."
)
"""A paragraph of --help."""

_CODES: dict[type[BaseException], ExitCode] = {
    BaseException: ExitCode.REFUSED,
    NotFound: ExitCode.NOT_FOUND,
    WrongRevision: ExitCode.CONFLICT,
    NotAuthorized: ExitCode.DENIED,
    Denied: ExitCode.DENIED,
    Busy: ExitCode.UNAVAILABLE,
    Unavailable: ExitCode.UNAVAILABLE,
    OutcomeUnknown: ExitCode.OUTCOME_UNKNOWN,
    ProgramUnusable: ExitCode.NOT_STARTED,
    ProgramNotFound: ExitCode.PROGRAM_NOT_FOUND,
    KeyboardInterrupt: ExitCode.INTERRUPTED,
}


def exit_code(error: BaseException) -> ExitCode:
    """Return the exit code for what ended a command."""
    if isinstance(error, InvalidRequest) and not error.reason:
        return ExitCode.USAGE
    return next(_CODES[kind] for kind in type(error).__mro__ if kind in _CODES)


def sentence_of(error: KeyVaultError) -> str:
    """Return what standard error says of a failure: the sentence, the current revision, the server's reason."""
    found = f" [{' '.join(filter(None, (error.reason, error.request_id)))}]" if error.reason else ""
    return f"{error}{_current_revision(error)}{found}"


def _current_revision(error: KeyVaultError) -> str:
    """Return what the server says about a record that is at another revision."""
    current = getattr(error, "current_revision", 0)  # of WrongRevision and RevisionNotFound
    vacant = isinstance(error, WrongRevision) and error.vacant
    return f"; the record is at revision {current}" if current and not vacant else ""
