"""Secrets between files, stdin and stdout: never an argument, never readable by others, not on a screen by mistake.

The rules of this file:

* A file or a pipe gets and gives bytes as they are. A person at a terminal types without being watched, and what is
  shown there cannot control the terminal.
* A stream that cannot be read or written is an error while it can still be reported. Python sets a stream that was
  closed before the start to None, and what `print` wrote may fail as late as at exit.
"""

import contextlib
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from keyvault_api.envelope import MAX_PLAINTEXT
from keyvault_api.files import sync_directory
from keyvault_api.names import MAX_MESSAGE
from keyvault_api.printable import printable
from keyvault_client.errors import InvalidRequest, KeyVaultError
from keyvault_client.key_files import write_private_file
from keyvault_client.keys import DataKey
from keyvault_client.prompt import ask, interruptible

MAX_INPUT = 64 * 1024 * 1024
"""Most bytes of many records at once."""
_VERBOSITY = "GRPC_VERBOSITY"


def read_secret(key_id: str, from_file: Path | None = None, *, allow_empty: bool) -> bytes:
    """Read a file or standard input to its end, at most what a record holds; at a terminal ask for a line.

    Empty input is what a program leaves that failed before this one in a pipe, so it has to be allowed. Raises
    InvalidRequest, OSError for the file.
    """
    data = _read(MAX_PLAINTEXT, f"Data of {printable(key_id)}, one line, not shown: ", from_file)
    refuse_empty(data, allow_empty=allow_empty)
    if len(data) > MAX_PLAINTEXT:
        raise InvalidRequest(
            f"{from_file or 'standard input'} is too long: a record holds at most {MAX_PLAINTEXT} bytes"
        )
    return data


def refuse_empty(data: bytes, *, allow_empty: bool) -> None:
    """Raise InvalidRequest for data of 0 bytes, unless the user allows that."""
    if not data and not allow_empty:
        raise InvalidRequest("standard input is empty, or the record in it: give --allow-empty to store 0 bytes")


def read_message(question: str = "") -> bytes:
    """Read standard input to its end, at most twice a gRPC message: one fits as JSON. Raises InvalidRequest.

    If there is a question, a terminal asks it and does not show the answer, one line.
    """
    data = _read(2 * MAX_MESSAGE, question)
    if len(data) > 2 * MAX_MESSAGE:
        raise InvalidRequest("standard input is too long for an envelope or a response")
    return data


def read_all(from_file: Path | None) -> bytes:
    """Read a file or standard input to its end, at most MAX_INPUT bytes. Raises InvalidRequest, OSError."""
    data = _read(MAX_INPUT, "", from_file)
    if len(data) > MAX_INPUT:
        raise InvalidRequest(f"{from_file or 'standard input'} is longer than {MAX_INPUT} bytes: import it in parts")
    return data


def write_bytes(data: bytes) -> None:
    """Write bytes to standard output as they are. Raises InvalidRequest, OSError."""
    output = _output()
    output.write(data)
    output.flush()


def write_plaintext(data: bytes, output: Path | None = None, *, raw: bool) -> None:
    """Write a record's data to a file, or to standard output, as it is; to a terminal as text that cannot control it.

    There, unless `raw`, what is not visible becomes an escape, and the last line is ended. Raises InvalidRequest for
    binary data, OSError.
    """
    if output is not None:
        write_private_file(output, data)
        return
    if raw or not _output().isatty():
        write_bytes(data)
        return
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise InvalidRequest("refusing to show binary data on the screen: send it to a file or a pipe, or give --raw")
    shown = printable(text, keep="\n\t")
    if shown != text:
        print_error("keyvault: what is not visible is shown as an escape; --raw writes the data as it is")
    end = "" if shown.endswith("\n") or not shown else "\n"
    write_bytes(f"{shown}{end}".encode(sys.stdout.encoding, "backslashreplace"))


def write_envelope(envelope: bytes) -> None:
    """Write an envelope to standard output. Raises InvalidRequest for a terminal: an envelope is binary."""
    if _output().isatty():
        raise InvalidRequest("refusing to show an envelope on the screen: send it to a file or a pipe, or give --json")
    write_bytes(envelope)


def check_key_output(new_file: Path | None) -> None:
    """Raise before a key is asked for that could not be written safely to standard output.

    Raises InvalidRequest for a screen, where others may read it, and for a closed stream; KeyVaultError for a file that
    others may open. Who opens such a file now can read from it later, even if its mode was changed in between.
    """
    if new_file is not None:
        return
    output = _output()
    if output.isatty():
        raise InvalidRequest("refusing to show a key on the screen: send it to a file with --save FILE")
    mode = os.fstat(output.fileno()).st_mode
    if stat.S_ISREG(mode) and mode & 0o077:
        raise KeyVaultError(
            f"refusing to write a key to a file that others may open (mode {stat.S_IMODE(mode):04o}): "
            "use --save FILE, or `umask 077` before the redirection"
        )


def write_key(key: DataKey, new_file: Path | None) -> None:
    """Write a key durably to a new file, or to standard output."""
    if new_file is not None:
        key.save(new_file)
        return
    write_bytes(key.to_json().encode())
    output = _output().fileno()
    if stat.S_ISREG(os.fstat(output).st_mode):
        os.fsync(output)
        with contextlib.suppress(OSError):  # where the system does not say which file a descriptor is
            sync_directory(Path(f"/dev/fd/{output}").readlink().parent)


def load_key(path: Path) -> DataKey:
    """Load the key in a file. Raises InvalidRequest, also if standard output would overwrite that file."""
    if sys.stdout is not None and os.path.samestat(os.fstat(sys.stdout.fileno()), path.stat()):
        raise InvalidRequest(
            f"standard output is the key file {path}: use --in-place or --save NEW. "
            "A shell that redirects with > has emptied the file already"
        )
    return DataKey.load(path)


def load_key_to_change(key: Path, save: Path | None, *, in_place: bool) -> DataKey:
    """Return the key if its new version can be written where the user wants it. Raises KeyVaultError."""
    if in_place and save is not None:
        raise InvalidRequest("--in-place and --save exclude each other")
    old = load_key(key)
    check_key_output(key if in_place else save)
    return old


def write_changed_key(new: DataKey, old: DataKey, key: Path, save: Path | None, *, in_place: bool) -> None:
    """Write the new version of the key in a file to where the user wants it."""
    if in_place:
        new.replace(key, old=old)
    else:
        write_key(new, save)


@contextlib.contextmanager
def until_output_is_closed() -> Iterator[None]:
    """Run the body, which prints lines, and end it without an error when their reader has enough, as `head` does.

    Raises InvalidRequest if standard output was closed before, OSError if it cannot be written.
    """
    output = _output()
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), output.fileno())


def flush_output() -> None:
    """Write what is still buffered. Raises OSError, and then drops the rest."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


def quiet_grpc() -> None:
    """Keep gRPC's core from writing to standard error, where it reports each failed handshake.

    1. This program's standard error moves to a copy of descriptor 2.
    2. Descriptor 2, which gRPC writes to, goes to /dev/null.
    3. GRPC_VERBOSITY silences what gRPC's threads write after `give_back_standard_error`. gRPC reads it when it is
       imported, which a program that calls main() may have done before: hence 1 and 2.

    A GRPC_VERBOSITY in the environment shows that the user wants to see these lines: then nothing changes.
    """
    if sys.stderr is None or _VERBOSITY in os.environ:
        return
    # 1. Ours. A new file object has no error handler; Python's own standard error has this one.
    sys.stderr = os.fdopen(os.dup(2), "w", errors="backslashreplace")
    # 2. gRPC's.
    nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    # 3.
    os.environ[_VERBOSITY] = "NONE"


def environment_at_start() -> dict[str, str]:
    """Return the environment of this process without what quiet_grpc() has set."""
    is_quiet = sys.stderr is not None and sys.stderr.fileno() != 2
    return {name: value for name, value in os.environ.items() if not (is_quiet and name == _VERBOSITY)}


def give_back_standard_error() -> None:
    """Make descriptor 2 standard error again, for a program that this process becomes or starts."""
    if sys.stderr is not None:
        os.dup2(sys.stderr.fileno(), 2)


def print_error(sentence: str) -> None:
    """Write one line to standard error, if it is open."""
    if sys.stderr is not None:
        sys.stderr.write(sentence + "\n")
        sys.stderr.flush()


def _read(limit: int, question: str, from_file: Path | None = None) -> bytes:
    """Read to the end, at most one byte more than `limit`; at a terminal ask the question, if any."""
    if from_file is not None:
        with from_file.open("rb") as file:
            return file.read(limit + 1)
    stream = _input()
    with interruptible():
        return ask(stream.fileno(), question) if question and stream.isatty() else stream.read(limit + 1)


def _input() -> BinaryIO:
    if sys.stdin is None:
        raise InvalidRequest("standard input is closed: send the data to it, or use `--allow-empty < /dev/null`")
    return sys.stdin.buffer


def _output() -> BinaryIO:
    if sys.stdout is None:
        raise InvalidRequest("standard output is closed: redirect it to a file or a pipe")
    return sys.stdout.buffer
