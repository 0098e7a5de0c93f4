"""A secret in a person's editor, and not left behind.

The rules of this file:

* The text is in a file of mode 0600 in a folder of its own, mode 0700, in memory where the system has such a file
  system. The folder is removed with all that the editor leaves in it, unless SIGKILL ends this process.
* What the editor leaves is looked at, not trusted: no link is followed, nothing but a regular file is read, and no more
  of it than a record holds.

Source: proc(5) for mountinfo; git-var(1) for which editor.
"""

import contextlib
import os
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType

from keyvault_api.envelope import MAX_PLAINTEXT
from keyvault_client.errors import InvalidRequest, KeyVaultError, quote
from keyvault_client.program import ProgramNotFound

VARIABLES = ("KEYVAULT_EDITOR", "VISUAL", "EDITOR")
"""Variables that name the editor, with arguments, as a shell splits them; the first one that is not empty counts."""
USUAL = ("vi", "nano")
"""Editors to try where no variable names one."""
STOP_SECONDS = 2.0
"""How long an editor may take to end when a signal ends this process."""

_MOUNTINFO = Path("/proc/self/mountinfo")
_ENDED_BY = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_OF_THE_TERMINAL = (signal.SIGINT, signal.SIGQUIT)


def find_editor(environment: Mapping[str, str]) -> list[str]:
    """Return the words of the editor's command. Raises KeyVaultError if there is none."""
    named = next((name for name in VARIABLES if environment.get(name, "").strip()), None)
    if named is None:
        found = next((name for name in USUAL if shutil.which(name)), None)
        if found is None:
            raise InvalidRequest("no editor found: set EDITOR to one, such as EDITOR=nano")
        return [found]
    try:
        words = shlex.split(environment[named])
    except ValueError as error:
        raise InvalidRequest(f"{named}: {quote(environment[named])}: {error}") from None
    if not words or shutil.which(words[0]) is None:
        raise InvalidRequest(f"{named}: editor {quote(words[0] if words else '')} not found: check its name and PATH")
    return words


@contextlib.contextmanager
def private_folder() -> Iterator[Path]:
    """Make a folder of mode 0700, in memory if there is such a file system; remove it with all that is in it."""
    folder = Path(tempfile.mkdtemp(prefix="keyvault-", dir=_place()))
    try:
        with _signals_as_exceptions():
            yield folder
    finally:
        _remove(folder)


def file_in(folder: Path, key_id: str) -> Path:
    """Return a path for the record's text, whose name ends as the record's does: editors go by that."""
    last = key_id.rpartition("/")[2][-100:].lstrip(".-")
    return folder / (last or "secret")


def save_text(path: Path, text: bytes) -> None:
    """Write the text to a new file that is ours alone. Raises OSError that names it."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(text)
    except OSError as error:
        raise OSError(error.errno, error.strerror, os.fspath(path)) from None


def edit_text(editor: Sequence[str], path: Path) -> bytes:
    """Let the person edit the file at `path`; return what is in it then.

    Raises KeyVaultError, and SystemExit if a signal ends this process; the file is still there then.
    """
    status = _run([*editor, str(path)])
    if status:
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with exit code {status}"
        raise KeyVaultError(f"the editor {quote(editor[0])} {how}: nothing was changed")
    return read_text(path)


def _run(command: Sequence[str]) -> int:
    """Run the editor on our terminal. Return its exit code, -N for signal N."""
    try:
        with _keys_for_editor(), subprocess.Popen(command, stderr=sys.stderr) as process:
            try:
                return process.wait()
            except BaseException:
                _stop(process)
                raise
    except OSError as error:
        raise ProgramNotFound(f"editor {quote(command[0])} cannot be run: {error.strerror}") from None


@contextlib.contextmanager
def _keys_for_editor() -> Iterator[None]:
    """Leave Ctrl-C and its like to the editor. It does not inherit a handler, as it would SIG_IGN."""
    before = {number: signal.getsignal(number) for number in _OF_THE_TERMINAL}
    ours = {number: handler for number, handler in before.items() if callable(handler)}
    for number in ours:
        signal.signal(number, _leave_to_editor)
    try:
        yield
    finally:
        for number, handler in ours.items():
            signal.signal(number, handler)


def _leave_to_editor(number: int, frame: FrameType | None) -> None:
    """Do nothing: the terminal sends Ctrl-C to the editor, too."""


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()


def read_text(path: Path) -> bytes:
    """Read the file that the editor leaves. Raises KeyVaultError."""
    try:
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
            raise KeyVaultError("the editor left no regular file of yours: nothing was changed")
        if not found.st_mode & stat.S_IRUSR:
            path.chmod(0o600)
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            return file.read(MAX_PLAINTEXT + 2)  # and one more than too long
    except FileNotFoundError:
        raise KeyVaultError("the editor removed the file: nothing was changed") from None


def _place() -> Path | None:
    """Return a folder in memory for temporary files; None, which means the usual place, if there is none."""
    candidates = (os.environ.get("XDG_RUNTIME_DIR", ""), "/dev/shm")  # noqa: S108 - the folder made there is private
    for candidate in map(Path, filter(os.path.isabs, candidates)):
        with contextlib.suppress(OSError):
            if _is_safe(candidate.stat()) and os.access(candidate, os.W_OK | os.X_OK) and _is_in_memory(candidate):
                return candidate
    return None


def _is_safe(status: os.stat_result) -> bool:
    """Return whether no other user can rename what we make in this folder."""
    others = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return status.st_uid in (0, os.geteuid()) and (not others or bool(status.st_mode & stat.S_ISVTX))


def _is_in_memory(folder: Path) -> bool:
    """Return whether the folder is on a file system that is never on a disk, but for swap."""
    device = folder.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    mounts = re.findall(r"^\d+ \d+ (\S+) .* - (\S+) ", _MOUNTINFO.read_text(errors="replace"), re.MULTILINE)
    return any(mounted == number and kind in ("tmpfs", "ramfs") for mounted, kind in mounts)


@contextlib.contextmanager
def _signals_as_exceptions() -> Iterator[None]:
    """Raise SystemExit for signals that would end this process, so that the folder is removed."""
    handlers = {number: signal.getsignal(number) for number in _ENDED_BY}
    before = {number: handler for number, handler in handlers.items() if handler not in (signal.SIG_IGN, None)}
    for number in before:
        signal.signal(number, _end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


def _remove(folder: Path) -> None:
    """Remove the folder whatever the editor did to it. Raises KeyVaultError if the text may still be there."""
    with contextlib.suppress(OSError):
        if not folder.is_symlink():
            folder.chmod(0o700)
    shutil.rmtree(folder, ignore_errors=True)
    if os.path.lexists(folder):
        raise KeyVaultError(f"cannot remove {folder}, which has the secret in plaintext: remove it yourself")
