"""The command `keyvault run`: start a program with secrets in its environment."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.types import ExistingFile

from keyvault_client.cli_key_options import DEFAULT_KEYS, KeyOptions
from keyvault_client.connection_options import DEFAULT_CONNECTION, ConnectionOptions
from keyvault_client.errors import KeyVaultError, NotRefreshed
from keyvault_client.program import become, find_program
from keyvault_client.records import Record
from keyvault_client.variables import parse_assignments, values_of, without_credentials


async def run(
    *command: Annotated[str, Parameter(help="The program and its arguments.")],
    env: Annotated[
        Sequence[str], Parameter(help="NAME=RECORD: the record's data becomes this variable. Can be repeated.")
    ] = (),
    env_file: Annotated[
        ExistingFile | None, Parameter(help="File with a NAME=RECORD on each line; # begins a comment.")
    ] = None,
    keys: KeyOptions = DEFAULT_KEYS,
    offline: Annotated[
        Path | None,
        Parameter(help="File that keeps the sealed records. While the server is away, the program starts from it."),
    ] = None,
    keep_credentials: Annotated[
        bool, Parameter(help="Pass on the variables that lead to keys, tokens and certificates of this command.")
    ] = False,
    connection: ConnectionOptions = DEFAULT_CONNECTION,
) -> None:
    """Start a program with secrets in its environment: `keyvault run --env DB_PASSWORD=prod/db -- CMD ARGUMENT`.

    The program replaces this process: signals and the exit code are its own. If a record cannot be read, it is not
    started.
    """
    assignments = parse_assignments(env, env_file)
    environment = dict(os.environ) if keep_credentials else without_credentials(os.environ)
    path = find_program(command, environment)
    names = list(dict.fromkeys(assignments.values()))
    try:
        records = await (_read_or_load(names, keys, connection, offline) if offline else _read(names, keys, connection))
    except NotRefreshed as failed:
        values_of({each: name for each, name in assignments.items() if name in failed.failures}, failed.failures)
        raise
    become(path, command, environment | values_of(assignments, records))


async def _read(
    names: Sequence[str], keys: KeyOptions, connection: ConnectionOptions
) -> dict[str, Record | KeyVaultError]:
    """Read these records, if there is a key for each."""
    chosen = keys.choose_for_names(names)
    async with connection.connect(chosen.ring) as vault:
        return await vault.read_many(dict.fromkeys(names, chosen.key) if chosen.key else names)


async def _read_or_load(
    names: Sequence[str], keys: KeyOptions, connection: ConnectionOptions, file: Path
) -> dict[str, Record | KeyVaultError]:
    """Read these records, and keep them in the file; without the server, take them from it. Raises NotRefreshed."""
    chosen = keys.choose_for_names(names)
    wanted = dict.fromkeys(names, chosen.key) if chosen.key else names
    async with connection.connect(chosen.ring) as vault, vault.cache(wanted, file=file) as secrets:
        return {name: secrets.record(name) for name in names}
