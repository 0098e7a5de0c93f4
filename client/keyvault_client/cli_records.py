"""Commands of `keyvault` that read and change one record."""

from json import dumps
from typing import Annotated

from cyclopts import Parameter
from cyclopts.types import PositiveInt

from keyvault_client.cli_key_options import DEFAULT_KEYS, KeyOptions
from keyvault_client.cli_parameters import (
    AllowEmpty,
    AsJson,
    AsJsonData,
    AtRevision,
    FromFile,
    KeyId,
    NewKeyFile,
    OutputFile,
    Raw,
)
from keyvault_client.cli_quick_read import write_record
from keyvault_client.connection_options import DEFAULT_CONNECTION, ConnectionOptions
from keyvault_client.errors import InvalidRequest
from keyvault_client.records import Written
from keyvault_client.terminal import load_key, read_secret


async def create(
    key_id: KeyId,
    /,
    *,
    keys: KeyOptions = DEFAULT_KEYS,
    revision: Annotated[
        PositiveInt | None,
        Parameter(help="Last revision of a purged name, as its operator knows it: go on from there."),
    ] = None,
    from_file: FromFile = None,
    allow_empty: AllowEmpty = False,
    json: AsJson = False,
    connection: ConnectionOptions = DEFAULT_CONNECTION,
) -> None:
    """Store standard input as a new record.

    Example: `echo -n s3cret | keyvault create prod/db`
    """
    owner, data = keys.choose(key_id), read_secret(key_id, from_file, allow_empty=allow_empty)
    async with connection.connect(owner.ring) as vault:
        report(key_id, await vault.create(key_id, data, key=owner.key, revision=revision), json=json)


async def read(
    key_id: KeyId,
    /,
    *,
    keys: KeyOptions = DEFAULT_KEYS,
    revision: Annotated[
        PositiveInt | None, Parameter(help="Read this revision, one that history lists. Default: the current one.")
    ] = None,
    output: OutputFile = None,
    raw: Raw = False,
    json: AsJsonData = False,
    connection: ConnectionOptions = DEFAULT_CONNECTION,
) -> None:
    """Write a record's data to standard output.

    Example: `keyvault read prod/db -o db.txt`
    """
    if raw and json:
        raise InvalidRequest("--raw and --json exclude each other")
    owner = keys.choose(key_id, output=output)
    async with connection.connect(owner.ring) as vault:
        record = await vault.read(key_id, key=owner.key, revision=revision)
    write_record(record, output, raw=raw, json=json)


async def restore(
    key_id: KeyId,
    /,
    *,
    keys: KeyOptions = DEFAULT_KEYS,
    revision: Annotated[PositiveInt, Parameter(help="The earlier revision, one that history lists.")],
    json: AsJson = False,
    connection: ConnectionOptions = DEFAULT_CONNECTION,
) -> None:
    """Store an earlier revision's data as a record's next revision. The last writer wins.

    Example: `keyvault restore prod/db --revision 3`
    """
    owner = keys.choose(key_id)
    async with connection.connect(owner.ring) as vault:
        done = await vault.restore(key_id, key=owner.key, revision=revision)
    report(key_id, done, json=json)


async def update(
    key_id: KeyId,
    /,
    *,
    keys: KeyOptions = DEFAULT_KEYS,
    revision: AtRevision = None,
    from_file: FromFile = None,
    allow_empty: AllowEmpty = False,
    json: AsJson = False,
    connection: ConnectionOptions = DEFAULT_CONNECTION,
) -> None:
    """Replace a record's data with standard input.

    Example: `echo -n newer | keyvault update prod/db --revision 3`
    """
    owner, data = keys.choose(key_id), read_secret(key_id, from_file, allow_empty=allow_empty)
    async with connection.connect(owner.ring) as vault:
        report(key_id, await vault.update(key_id, data, key=owner.key, revision=revision), json=json)


async def delete(
    key_id: KeyId,
    /,
    *,
    keys: KeyOptions = DEFAULT_KEYS,
    revision: AtRevision = None,
    json: AsJson = False,
    connection: ConnectionOptions = DEFAULT_CONNECTION,
) -> None:
    """Delete a record. Its name stays reserved for its key.

    Example: `keyvault delete prod/db`
    """
    owner = keys.choose(key_id)
    async with connection.connect(owner.ring) as vault:
        report(key_id, await vault.delete(key_id, key=owner.key, revision=revision), json=json)


async def rotate_key(
    key_id: KeyId,
    /,
    *,
    keys: KeyOptions = DEFAULT_KEYS,
    new_key: NewKeyFile,
    revision: AtRevision = None,
    json: AsJson = False,
    connection: ConnectionOptions = DEFAULT_CONNECTION,
) -> None:
    """Hand a record to another key. The old key no longer opens or changes this record.

    Example: `keyvault rotate-key prod/db --new-key new.key`
    """
    new = load_key(new_key)
    owner = keys.choose(key_id, without=new)
    async with connection.connect(owner.ring) as vault:
        done = await vault.rotate_key(key_id, key=owner.key, new_key=new, revision=revision)
    report(key_id, done, json=json)


def report(key_id: str, done: Written, *, json: bool) -> None:
    """Write to standard output at which revision a record is now."""
    if json:
        print(dumps({"key_id": key_id} | done.to_json()))
        return
    print(f"{key_id} is at revision {done.revision}{' (accepted in an earlier attempt)' if done.replayed else ''}")
