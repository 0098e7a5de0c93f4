"""The command `keyvault run`: start a program with secrets in its environment."""

import asyncio
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.types import ExistingFile, PositiveFloat

from keyvault_client.cache import Secrets
from keyvault_client.cli_key_options import DEFAULT_KEYS, KeyOptions
from keyvault_client.connection_options import DEFAULT_CONNECTION, ConnectionOptions
from keyvault_client.errors import InvalidRequest, KeyVaultError, NotCached, NotRefreshed, quote
from keyvault_client.key_sources import ChosenKeys
from keyvault_client.program import become, find_program
from keyvault_client.records import Record
from keyvault_client.terminal import environment_at_start
from keyvault_client.variables import Values, parse_assignments, values_of, without_credentials
from keyvault_client.vault import KeyVault
from keyvault_client.watched_program import WatchedProgram


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
    watch: Annotated[bool, Parameter(help="Stay, and restart the program when a record changes.")] = False,
    refresh: Annotated[
        PositiveFloat, Parameter(show_default=True, help="With --watch: longest time between two looks, in seconds.")
    ] = 30.0,
    keep_credentials: Annotated[
        bool, Parameter(help="Pass on the variables that lead to keys, tokens and certificates of this command.")
    ] = False,
    connection: ConnectionOptions = DEFAULT_CONNECTION,
) -> int:
    """Start a program with secrets in its environment: `keyvault run --env DB_PASSWORD=prod/db -- CMD ARGUMENT`.

    The program replaces this process: signals and the exit code are its own. If a record cannot be read, it is not
    started. With --watch this process stays, forwards signals, and ends with the program's exit code.
    """
    if command and "--" not in sys.argv:
        raise InvalidRequest(f"give -- before {quote(command[0])}: options of the program would be taken from it")
    assignments = parse_assignments(env, env_file)
    environment = environment_at_start()
    environment = environment if keep_credentials else without_credentials(environment)
    path = find_program(command, environment)
    owner = keys.choose_for_names(assignments.values())
    async with connection.connect(owner.ring) as vault:
        if watch:
            program = WatchedProgram(path, command, environment)
            return await _watch(program, vault, owner, assignments, offline, refresh)
        values = await _read(vault, owner, assignments, offline)
    return become(path, command, environment | values)


async def _read(vault: KeyVault, owner: ChosenKeys, assignments: Mapping[str, str], offline: Path | None) -> Values:
    """Return the value of each variable, from the server, or from the file while that is away."""
    names = owner.for_names(assignments.values())
    if offline is None:
        return values_of(assignments, await vault.read_many(names))
    with _variables_named(assignments):
        async with vault.cache(names, file=offline) as secrets:
            return _values(assignments, secrets)


async def _watch(
    program: WatchedProgram,
    vault: KeyVault,
    owner: ChosenKeys,
    assignments: Mapping[str, str],
    offline: Path | None,
    refresh: float,
) -> int:
    """Run the program, and restart it when a value changes; return its exit code."""
    changed = asyncio.Event()
    names = owner.for_names(assignments.values())

    def note(name: str, record: Record) -> None:
        changed.set()

    with _variables_named(assignments):
        async with vault.cache(names, file=offline, refresh=refresh, on_change=note) as secrets:
            return await program.run(lambda: _values(assignments, secrets), changed)


@contextmanager
def _variables_named(assignments: Mapping[str, str]) -> Iterator[None]:
    """Raise, for records that a cache has not, the error of the first variable."""
    try:
        yield
    except NotRefreshed as failed:
        values_of({each: name for each, name in assignments.items() if name in failed.failures}, failed.failures)
        raise


def _values(assignments: Mapping[str, str], secrets: Secrets) -> Values:
    """Return the value of each variable. Raises the error of the first name that has none."""
    return values_of(assignments, {name: _found(secrets, name) for name in assignments.values()})


def _found(secrets: Secrets, name: str) -> Record | KeyVaultError:
    """Return the record that a cache has, or why it has none."""
    try:
        return secrets.record(name)
    except NotCached as error:
        return secrets.failure(name) or error
