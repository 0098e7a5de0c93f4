"""The command `keyvault import-legacy`."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from keyvault_client.cli_parameters import AllowEmpty, AsJson, KeyId
from keyvault_client.cli_records import report
from keyvault_client.connection_options import DEFAULT_CONNECTION, ConnectionOptions
from keyvault_client.legacy import open_legacy
from keyvault_client.terminal import load_key, read_message, refuse_empty


async def import_legacy(
    key_id: KeyId,
    /,
    *,
    key: Annotated[Path, Parameter(help="File for the new key; a key that is there already is used.")],
    allow_empty: AllowEmpty = False,
    json: AsJson = False,
    connection: ConnectionOptions = DEFAULT_CONNECTION,
) -> None:
    """Import a legacy record, JSON {"data": ..., "secret": ...} on standard input, under a new key.

    Example: `keyvault import-legacy prod/old --key old.key < old.json`
    """
    plaintext = open_legacy(read_message("Legacy record, one line, not shown: "))
    refuse_empty(plaintext, allow_empty=allow_empty)
    async with connection.connect() as vault:
        if not key.exists():
            (await vault.generate_key(key_id)).save(key)
        fresh = load_key(key)
        report(key_id, await vault.create(key_id, plaintext, key=fresh), json=json)
