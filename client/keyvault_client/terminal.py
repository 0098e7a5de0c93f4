"""Secrets between files, stdin and stdout: never an argument, never readable by others, not on a screen by mistake.

The rule of this file: a stream that cannot be read or written is an error while it can still be reported. Python sets a
stream that was closed before the start to None, and what `print` wrote may fail as late as at exit.
"""

import os
import stat
import sys
from pathlib import Path
from typing import BinaryIO

from keyvault_api.envelope import MAX_PLAINTEXT
from keyvault_api.names import MAX_MESSAGE
from keyvault_client.errors import InvalidRequest
from keyvault_client.keys import DataKey


def read_secret() -> bytes:
    """Read standard input to its end, at most what a record holds. Raises InvalidRequest."""
    data = _input().read(MAX_PLAINTEXT + 1)
    if len(data) > MAX_PLAINTEXT:
        raise InvalidRequest(f"standard input is too long: a record holds at most {MAX_PLAINTEXT} bytes")
    return data


def read_message() -> bytes:
    """Read standard input to its end, at most twice a gRPC message: one fits as JSON. Raises InvalidRequest."""
    data = _input().read(2 * MAX_MESSAGE + 1)
    if len(data) > 2 * MAX_MESSAGE:
        raise InvalidRequest("standard input is too long for an envelope or a response")
    return data


def write_bytes(data: bytes) -> None:
    """Write bytes to standard output as they are. Raises InvalidRequest, OSError."""
    output = _output()
    output.write(data)
    output.flush()


def refuse_terminal_output(new_file: Path | None) -> None:
    """Raise InvalidRequest if a key would go to a screen, where others may read it, or to a closed stream."""
    if new_file is None and _output().isatty():
        raise InvalidRequest("refusing to show a key on the screen: send it to a file, as in `... > prod.key`")


def write_key(key: DataKey, new_file: Path | None) -> None:
    """Write a key durably to a new file, or to standard output; if that is a regular file, it becomes 0600 first."""
    if new_file is not None:
        key.save(new_file)
        return
    output = _output().fileno()
    regular = stat.S_ISREG(os.fstat(output).st_mode)
    if regular:
        os.fchmod(output, 0o600)
    write_bytes(key.to_json().encode())
    if regular:
        os.fsync(output)


def load_or_save_key(path: Path, key: DataKey | None) -> DataKey:
    """Return the key in the file; or save the given key to it, durably, and return that."""
    if key is None:
        return DataKey.load(path)
    key.save(path)
    return key


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

    GRPC_VERBOSITY would silence it, but gRPC reads that before any line of ours runs. So:

    1. this program's standard error moves to a copy of descriptor 2;
    2. descriptor 2, which gRPC writes to, goes to /dev/null.

    A GRPC_VERBOSITY in the environment shows that the user wants to see these lines: then nothing changes.
    """
    if sys.stderr is None or "GRPC_VERBOSITY" in os.environ:
        return
    # 1. Ours. A new file object has no error handler; Python's own standard error has this one.
    sys.stderr = os.fdopen(os.dup(2), "w", errors="backslashreplace")
    # 2. gRPC's.
    nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    os.dup2(nowhere, 2)
    os.close(nowhere)


def print_error(sentence: str) -> None:
    """Write one line to standard error, if it is open."""
    if sys.stderr is not None:
        sys.stderr.write(sentence + "\n")
        sys.stderr.flush()


def _input() -> BinaryIO:
    if sys.stdin is None:
        raise InvalidRequest("standard input is closed: send the data to it, or use `< /dev/null` for empty data")
    return sys.stdin.buffer


def _output() -> BinaryIO:
    if sys.stdout is None:
        raise InvalidRequest("standard output is closed: redirect it to a file or a pipe")
    return sys.stdout.buffer
