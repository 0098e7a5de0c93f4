"""The command `keyvault export`: many records as a dotenv file, JSON, or lines for a shell."""

from typing import Annotated, Literal

from cyclopts import Parameter

from keyvault_client.cli_key_options import DEFAULT_KEYS, KeyOptions
from keyvault_client.cli_parameters import OutputFile, Raw
from keyvault_client.connection_options import DEFAULT_CONNECTION, ConnectionOptions
from keyvault_client.errors import KeyVaultError, NotFound, quote
from keyvault_client.many_records import read_in_batches, render_json, render_variables
from keyvault_client.terminal import write_plaintext


async def export(
    prefix: Annotated[str, Parameter(help="What the names begin with. Default: all names.")] = "",
    /,
    *,
    keys: KeyOptions = DEFAULT_KEYS,
    form: Annotated[
        Literal["dotenv", "json", "shell"],
        Parameter(name="--format", show_default=True, help="shell has `export` before each variable."),
    ] = "dotenv",
    output: OutputFile = None,
    raw: Raw = False,
    connection: ConnectionOptions = DEFAULT_CONNECTION,
) -> None:
    """Write all records under a prefix: `keyvault export prod/ --format shell -o env.sh`.

    Names are those after the last "/" of the prefix. In dotenv and shell, db-password becomes DB_PASSWORD.
    """
    async with connection.connect() as vault:
        names = [name.key_id async for name in vault.list(prefix)]
    if not names:
        raise NotFound(
            f"no record begins with {quote(prefix)}: nothing was exported" if prefix else "there is no record"
        )
    owner = keys.choose_for_names(names, output=output)
    async with connection.connect(owner.ring) as vault:
        found = await read_in_batches(vault, names, owner)
    base = prefix[: prefix.rfind("/") + 1]
    values: dict[str, bytes] = {}
    for name, record in found.items():
        if isinstance(record, KeyVaultError):
            record.args = (f"{name}: {record}; nothing was exported",)
            raise record
        values[name.removeprefix(base)] = record.plaintext
    text = render_json(values) if form == "json" else render_variables(values, export=form == "shell")
    write_plaintext(text.encode(), output, raw=raw)
