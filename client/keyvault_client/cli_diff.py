"""The command `keyvault diff`: what differs between two revisions of a record."""

from json import dumps
from typing import Annotated

from cyclopts import Parameter
from cyclopts.types import PositiveInt

from keyvault_client.cli_key_options import DEFAULT_KEYS, KeyOptions
from keyvault_client.cli_parameters import AsJson, KeyId
from keyvault_client.connection_options import DEFAULT_CONNECTION, ConnectionOptions
from keyvault_client.differences import differences
from keyvault_client.errors import KeyVaultError
from keyvault_client.terminal import write_plaintext


async def diff(
    key_id: KeyId,
    revision: Annotated[PositiveInt, Parameter(help="A revision that history lists.")],
    other: Annotated[PositiveInt | None, Parameter(help="Another one. Default: the current revision.")] = None,
    /,
    *,
    keys: KeyOptions = DEFAULT_KEYS,
    json: AsJson = False,
    connection: ConnectionOptions = DEFAULT_CONNECTION,
) -> None:
    """Show what differs between two revisions of a record, as `diff -u` does: `keyvault diff prod/db 3`.

    It shows data. No output means that there is no difference.
    """
    owner = keys.choose(key_id)
    async with connection.connect(owner.ring) as vault:
        old = await vault.read(key_id, key=owner.key, revision=revision)
        new = await vault.read(key_id, key=owner.key, revision=other)
    try:
        lines = differences(old, new)
    except UnicodeDecodeError:
        raise KeyVaultError(f"{key_id} is not text: compare what `keyvault read --revision` writes") from None
    if json:
        print(dumps({"key_id": key_id, "old": old.revision, "new": new.revision, "lines": lines}))
    else:
        write_plaintext("".join(f"{line}\n" for line in lines).encode(), raw=False)
