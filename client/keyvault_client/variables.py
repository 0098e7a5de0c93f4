"""Variables of a program's environment: which record goes into which, and what a variable can hold.

The rule of this file: what is given are names of records. A file with values by mistake is refused without showing any.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

from keyvault_api.names import is_key_id
from keyvault_client.errors import InvalidRequest, KeyVaultError, quote
from keyvault_client.records import Record, check_key_id

MAX_FILE = 1024 * 1024
"""Most bytes in a file of assignments."""
Values: TypeAlias = dict[str, str]
"""The value of each variable."""
CREDENTIALS = (
    "KEYVAULT_KEY",
    "KEYVAULT_KEYS",
    "KEYVAULT_TOKEN_FILE",
    "KEYVAULT_CERTIFICATE",
    "KEYVAULT_PRIVATE_KEY",
)
"""Variables of ours that lead to keys or prove who the caller is."""
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def parse_assignments(given: Iterable[str], file: Path | None) -> dict[str, str]:
    """Return the record for each variable, from `NAME=RECORD`s and the lines of a file; the former win.

    Raises InvalidRequest, also if there are none; OSError for the file.
    """
    from_file = _unique(_assignments_in(file), f"{file}: ") if file else {}
    assignments = from_file | _unique(map(_parse, given), "")
    if not assignments:
        raise InvalidRequest("no variables: give --env NAME=RECORD or --env-file FILE")
    return assignments


def values_of(assignments: Mapping[str, str], records: Mapping[str, Record | KeyVaultError]) -> Values:
    """Return the value of each variable. Raises the error of the first record that has none, with both names in it."""
    return {variable: _value(variable, name, records[name]) for variable, name in assignments.items()}


def without_credentials(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without the variables that lead to our keys or say who we are."""
    return {name: value for name, value in environment.items() if name not in CREDENTIALS}


def _parse(assignment: str) -> tuple[str, str]:
    variable, equals, name = assignment.partition("=")
    if not equals or not _VARIABLE.fullmatch(variable):
        raise InvalidRequest(f"--env {quote(assignment)}: expected NAME=RECORD, such as DB_PASSWORD=prod/db")
    check_key_id(name)
    return variable, name


def _assignments_in(file: Path) -> Iterator[tuple[str, str]]:
    """Yield the assignments of a file: one a line, blank lines and those that begin with # left out."""
    with file.open("rb") as opened:
        content = opened.read(MAX_FILE + 1)
    if len(content) > MAX_FILE:
        raise InvalidRequest(f"{file}: larger than {MAX_FILE} bytes")
    for number, line in enumerate(content.decode("utf-8-sig", "replace").splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        variable, _, name = (part.strip() for part in line.partition("="))
        if not (_VARIABLE.fullmatch(variable) and is_key_id(name)):
            raise InvalidRequest(
                f"{file}: line {number}: expected NAME=RECORD, with the name of a record and not a value"
            )
        yield variable, name


def _unique(pairs: Iterable[tuple[str, str]], where: str) -> dict[str, str]:
    unique: dict[str, str] = {}
    for variable, name in pairs:
        if variable in unique:
            raise InvalidRequest(f"{where}{variable} is given twice")
        unique[variable] = name
    return unique


def _value(variable: str, name: str, record: Record | KeyVaultError) -> str:
    if isinstance(record, KeyVaultError):
        record.args = (f"{variable}={name}: {record}",)
        raise record
    try:
        value = record.plaintext.decode()
    except UnicodeDecodeError:
        raise KeyVaultError(f"{variable}={name}: the data is not UTF-8: read it into a file instead") from None
    if "\0" in value:
        raise KeyVaultError(f"{variable}={name}: the data has a NUL byte, which ends a variable: use a file instead")
    return value
