"""The command `keyvault import`: many records from a dotenv file or JSON.

The rules of this file: nothing is written before --apply, and no value is shown. Each record is written by
compare-and-swap on the revision that was compared, so a run that was stopped can be repeated.
"""

import json as jsonlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated

from cyclopts import Parameter

from keyvault_api.envelope import MAX_PLAINTEXT
from keyvault_client.cli_key_options import DEFAULT_KEYS, KeyOptions
from keyvault_client.cli_parameters import AllowEmpty, AsJsonLines, FromFile
from keyvault_client.connection_options import DEFAULT_CONNECTION, ConnectionOptions
from keyvault_client.errors import InvalidRequest, KeyVaultError, NotFound, quote
from keyvault_client.key_sources import ChosenKeys
from keyvault_client.many_records import parse_values, read_in_batches
from keyvault_client.records import Record, check_key_id
from keyvault_client.terminal import print_error, read_all
from keyvault_client.vault import KeyVault


@dataclass(frozen=True, slots=True)
class Change:
    """What an import does to one record; its repr has no value."""

    key_id: str
    action: str
    """create, update or unchanged."""
    revision: int
    """The revision that is there: 0 for none."""

    def show(self, *, json: bool) -> None:
        """Print one line."""
        if json:
            print(jsonlib.dumps({"key_id": self.key_id, "action": self.action, "revision": self.revision}))
        else:
            print(f"{self.action:9}  {self.key_id}{f' at revision {self.revision}' if self.revision else ''}")


async def import_records(
    prefix: Annotated[str, Parameter(help='Written before each name; ends in "/". Default: nothing.')] = "",
    /,
    *,
    keys: KeyOptions = DEFAULT_KEYS,
    from_file: FromFile = None,
    apply: Annotated[bool, Parameter(help="Write the records. Without it, show what would be written.")] = False,
    allow_empty: AllowEmpty = False,
    json: AsJsonLines = False,
    connection: ConnectionOptions = DEFAULT_CONNECTION,
) -> None:
    """Create or update records from a dotenv file or a JSON object: `keyvault import prod/ --from-file .env`.

    DB_PASSWORD becomes prod/DB_PASSWORD. Without --apply nothing is written.
    """
    values = _named(prefix, parse_values(read_all(from_file)), allow_empty=allow_empty)
    owner = keys.choose_for_names(values)
    async with connection.connect(owner.ring) as vault:
        changes = _compare(values, await read_in_batches(vault, list(values), owner))
        if apply:
            await _write(vault, owner, changes, values, json=json)
            return
    for change in changes:
        change.show(json=json)
    if any(change.action != "unchanged" for change in changes):
        print_error("keyvault: nothing was written: give --apply to write these records")


def _named(prefix: str, values: Mapping[str, bytes], *, allow_empty: bool) -> dict[str, bytes]:
    """Return the data by the names of the records. Raises InvalidRequest for what cannot be stored."""
    if prefix and not prefix.endswith("/"):
        raise InvalidRequest(f'invalid prefix {quote(prefix)}: must end in "/"')
    if not values:
        raise InvalidRequest("the input has no value")
    for name, value in values.items():
        check_key_id(prefix + name)
        if not value and not allow_empty:
            raise InvalidRequest(f"{name} is empty: give --allow-empty to store 0 bytes")
        if len(value) > MAX_PLAINTEXT:
            raise InvalidRequest(f"{name} is too long: a record holds at most {MAX_PLAINTEXT} bytes")
    return {prefix + name: value for name, value in values.items()}


def _compare(values: Mapping[str, bytes], found: Mapping[str, Record | KeyVaultError]) -> list[Change]:
    """Return what has to be done. Raises the error of the first record that cannot be read."""
    changes = []
    for name, value in values.items():
        record = found[name]
        if isinstance(record, NotFound):
            changes.append(Change(name, "create", 0))
        elif isinstance(record, KeyVaultError):
            record.args = (f"{name}: {record}; nothing was written",)
            raise record
        else:
            changes.append(Change(name, "unchanged" if record.plaintext == value else "update", record.revision))
    return changes


async def _write(
    vault: KeyVault, owner: ChosenKeys, changes: Iterable[Change], values: Mapping[str, bytes], *, json: bool
) -> None:
    """Write one record after the other, and print each that is done. Say how many are, if something stops it."""
    wanted = [change for change in changes if change.action != "unchanged"]
    done = 0
    try:
        for change in wanted:
            revision = await _write_one(vault, owner, change, values[change.key_id])
            done += 1
            Change(change.key_id, f"{change.action}d", revision).show(json=json)
    except KeyVaultError as error:
        error.args = (f"{change.key_id}: {error}; {done} of {len(wanted)} records were written",)
        raise
    except BaseException:  # Ctrl-C
        print_error(f"keyvault: {done} of {len(wanted)} records were written; the same command does the rest")
        raise


async def _write_one(vault: KeyVault, owner: ChosenKeys, change: Change, value: bytes) -> int:
    if change.action == "create":
        return (await vault.create(change.key_id, value, key=owner.key)).revision
    return (await vault.update(change.key_id, value, key=owner.key, revision=change.revision)).revision
