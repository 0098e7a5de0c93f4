"""Commands of `keyvault` that need no key: which records and revisions there are, and who you are."""

from collections.abc import Iterator
from contextlib import contextmanager
from json import dumps
from typing import Annotated

from cyclopts import Parameter

from keyvault_client.cli_parameters import AsJson, AsJsonLines, KeyId
from keyvault_client.connection_options import DEFAULT_CONNECTION, ConnectionOptions
from keyvault_client.errors import Denied
from keyvault_client.terminal import until_output_is_closed


async def list_names(
    prefix: Annotated[str, Parameter(help="What the names begin with. Default: all names.")] = "",
    /,
    *,
    deleted: Annotated[bool, Parameter(help="List deleted records instead of live ones.")] = False,
    json: AsJsonLines = False,
    connection: ConnectionOptions = DEFAULT_CONNECTION,
) -> None:
    """List the names of records, one a line, in the order of their bytes.

    Example: `keyvault list prod/`
    """
    with until_output_is_closed(), _naming_what_list_needs():
        async with connection.connect() as vault:
            async for name in vault.list(prefix, deleted=deleted):
                print(dumps(name.to_json()) if json else name.key_id)


async def history(
    key_id: KeyId, /, *, json: AsJsonLines = False, connection: ConnectionOptions = DEFAULT_CONNECTION
) -> None:
    """List the revisions of a record that can be read, newest first.

    Example: `keyvault history prod/db`
    """
    async with connection.connect() as vault:
        revisions = await vault.revisions(key_id)
    with until_output_is_closed():
        for one in revisions:
            print(dumps({"key_id": key_id} | one.to_json()) if json else one)


async def whoami(*, json: AsJson = False, connection: ConnectionOptions = DEFAULT_CONNECTION) -> None:
    """Show how the server sees you: identity, tenant, and what its policy allows.

    Example: `keyvault whoami`
    """
    async with connection.connect() as vault:
        you = await vault.whoami()
    print(dumps(you.to_json()) if json else you)


@contextmanager
def _naming_what_list_needs() -> Iterator[None]:
    """Add to a denial what a person who lists all names, or "prod" instead of "prod/", has to know."""
    try:
        yield
    except Denied as denied:
        if denied.reason != "POLICY_DENIED":
            raise
        hint = "list a PREFIX that a rule of yours covers, such as prod/ for prod/*; `keyvault whoami` shows them"
        raise Denied(f"{denied}: {hint}", reason=denied.reason, request_id=denied.request_id) from None
