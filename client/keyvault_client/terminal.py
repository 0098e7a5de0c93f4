"""Secrets between files, stdin and stdout: never an argument, never readable by others, not on a screen by mistake.

The rule of this file: what cannot be read or written is an error while it can still be told. Python has None for a
stream that was closed before it began, and what `print` wrote may fail as late as at the end.
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
    """Standard input to its end, at most what a record holds. Raises InvalidRequest."""
    data = _input().read(MAX_PLAINTEXT + 1)
    if len(data) > MAX_PLAINTEXT:
        raise InvalidRequest(f"standard input has more than the {MAX_PLAINTEXT} bytes that a record holds")
    return data


def read_message() -> bytes:
    """Standard input to its end, at most twice a gRPC message: that is one in JSON. Raises InvalidRequest."""
    data = _input().read(2 * MAX_MESSAGE + 1)
    if len(data) > 2 * MAX_MESSAGE:
        raise InvalidRequest("standard input is too long for an envelope or a response")
    return data


def write_bytes(data: bytes) -> None:
    """Bytes to standard output as they are. Raises InvalidRequest, OSError."""
    output = _output()
    output.write(data)
    output.flush()


def refuse_screen(new_file: Path | None) -> None:
    """Raises InvalidRequest if a key would go to a screen, where it is read by whoever passes, or nowhere."""
    if new_file is None and _output().isatty():
        raise InvalidRequest("a key would be shown on the screen: send it to a file, as in `... > prod.key`")


def write_key(key: DataKey, new_file: Path | None) -> None:
    """A key to a new file, or to standard output, durably; a regular file there becomes 0600 first."""
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
    """The key in the file; or, if one is given, that one, once it is safe on the disk."""
    if key is None:
        return DataKey.load(path)
    key.save(path)
    return key


def flush_output() -> None:
    """Writes what is left to be written. Raises OSError; what cannot be written is then dropped."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


def quiet_grpc() -> None:
    """Leaves standard error to this program: grpc's core writes there of each handshake that failed.

    It is asked to in GRPC_VERBOSITY, which it reads before any line of ours runs: hence its descriptor goes elsewhere.
    """
    if sys.stderr is None or "GRPC_VERBOSITY" in os.environ:
        return
    sys.stderr = os.fdopen(os.dup(2), "w", errors="backslashreplace")
    nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    os.dup2(nowhere, 2)
    os.close(nowhere)


def tell(sentence: str) -> None:
    """One line on standard error, if there is one."""
    if sys.stderr is not None:
        sys.stderr.write(sentence + "\n")
        sys.stderr.flush()


def _input() -> BinaryIO:
    if sys.stdin is None:
        raise InvalidRequest("standard input is closed: send the data there, or `< /dev/null` for none")
    return sys.stdin.buffer


def _output() -> BinaryIO:
    if sys.stdout is None:
        raise InvalidRequest("standard output is closed: send it to a file or a pipe")
    return sys.stdout.buffer
