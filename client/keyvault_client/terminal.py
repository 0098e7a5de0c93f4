"""Secrets between files, stdin and stdout: never an argument, never readable by others, not on a screen by mistake."""

import os
import stat
import sys
from pathlib import Path

from keyvault.envelope import MAX_PLAINTEXT
from keyvault.names import MAX_MESSAGE
from keyvault_client.errors import InvalidRequest
from keyvault_client.keys import DataKey


def read_secret() -> bytes:
    """Standard input to its end, at most what a record holds. Raises InvalidRequest."""
    data = sys.stdin.buffer.read(MAX_PLAINTEXT + 1)
    if len(data) > MAX_PLAINTEXT:
        raise InvalidRequest(f"standard input has more than the {MAX_PLAINTEXT} bytes that a record holds")
    return data


def read_message() -> bytes:
    """Standard input to its end, at most twice a gRPC message: that is one in JSON. Raises InvalidRequest."""
    data = sys.stdin.buffer.read(2 * MAX_MESSAGE + 1)
    if len(data) > 2 * MAX_MESSAGE:
        raise InvalidRequest("standard input is too long for an envelope or a response")
    return data


def write_bytes(data: bytes) -> None:
    """Bytes to standard output as they are."""
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def refuse_screen() -> None:
    """Raises InvalidRequest if standard output is a screen, where a key is read by whoever passes."""
    if sys.stdout.isatty():
        raise InvalidRequest("a key would be shown on the screen: send it to a file, as in `... > prod.key`")


def write_key(key: DataKey) -> None:
    """A key to standard output, durably; a regular file there becomes 0600 first."""
    output = sys.stdout.fileno()
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
