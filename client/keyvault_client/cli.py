"""The command `keyvault`: the client library from a shell.

The rules of this file: a secret goes through files, standard input and standard output, never through an argument. A
failure is one line on standard error and an exit code that exit_codes.py chooses. There is no traceback.
"""

import sys
from importlib.metadata import version
from json import dumps
from pathlib import Path
from typing import Annotated, NoReturn

from cyclopts import App, CycloptsError, Parameter, UnusedCliTokensError
from cyclopts.types import PositiveInt

from keyvault_api import envelope as kve1
from keyvault_api.printable import printable
from keyvault_api.process import close_memory
from keyvault_client.cli_key_options import DEFAULT_KEYS, KeyOptions
from keyvault_client.cli_keyless import history, list_names, whoami
from keyvault_client.cli_keys import app as keys_app
from keyvault_client.cli_keys import generate_key, rewrap_key, unwrap_key
from keyvault_client.cli_offline import inspect, open_envelope, seal_envelope
from keyvault_client.cli_parameters import (
    AllowEmpty,
    AsJson,
    AtRevision,
    KeyId,
    NewKeyFile,
    Raw,
)
from keyvault_client.cli_run import run
from keyvault_client.connection_options import DEFAULT_CONNECTION, ConnectionOptions
from keyvault_client.errors import InvalidRequest, KeyVaultError
from keyvault_client.exit_codes import HELP, ExitCode, exit_code, sentence_of
from keyvault_client.legacy import open_legacy
from keyvault_client.records import Written
from keyvault_client.terminal import (
    flush_output,
    load_key,
    print_error,
    quiet_grpc,
    read_message,
    read_secret,
    refuse_empty,
    write_plaintext,
)

app = App(
    name="keyvault",
    help="Keep secrets in a KeyVault server that cannot read them. Data comes from standard input; a terminal asks for "
    f"it.\n\n{HELP}",
    version=lambda: version("keyvault-grpc"),
    default_parameter=Parameter(negative="", show_default=False),
    suppress_keyboard_interrupt=False,
)


@app.command
async def create(
    key_id: KeyId,
    /,
    *,
    keys: KeyOptions = DEFAULT_KEYS,
    revision: Annotated[
        PositiveInt | None,
        Parameter(help="Last revision of a purged name, as its operator knows it: go on from there."),
    ] = None,
    allow_empty: AllowEmpty = False,
    connection: ConnectionOptions = DEFAULT_CONNECTION,
) -> None:
    """Store standard input as a new record."""
    owner, data = keys.choose(key_id), read_secret(key_id, allow_empty=allow_empty)
    async with connection.connect(owner.ring) as vault:
        _report(key_id, await vault.create(key_id, data, key=owner.key, revision=revision))


@app.command
async def read(
    key_id: KeyId,
    /,
    *,
    keys: KeyOptions = DEFAULT_KEYS,
    revision: Annotated[
        PositiveInt | None, Parameter(help="Read this revision, one that history lists. Default: the current one.")
    ] = None,
    raw: Raw = False,
    json: Annotated[bool, Parameter(help="Write JSON, with the data in base64.")] = False,
    connection: ConnectionOptions = DEFAULT_CONNECTION,
) -> None:
    """Write a record's data to standard output."""
    if raw and json:
        raise InvalidRequest("--raw and --json exclude each other")
    owner = keys.choose(key_id)
    async with connection.connect(owner.ring) as vault:
        record = await vault.read(key_id, key=owner.key, revision=revision)
    if json:
        print(dumps(record.to_json()))
    else:
        write_plaintext(record.plaintext, raw=raw)


@app.command
async def restore(
    key_id: KeyId,
    /,
    *,
    keys: KeyOptions = DEFAULT_KEYS,
    revision: Annotated[PositiveInt, Parameter(help="The earlier revision, one that history lists.")],
    json: AsJson = False,
    connection: ConnectionOptions = DEFAULT_CONNECTION,
) -> None:
    """Store an earlier revision's data as a record's next revision. The last writer wins."""
    owner = keys.choose(key_id)
    async with connection.connect(owner.ring) as vault:
        done = await vault.restore(key_id, key=owner.key, revision=revision)
    if json:
        print(dumps({"key_id": key_id} | done.to_json()))
    else:
        _report(key_id, done)


@app.command
async def update(
    key_id: KeyId,
    /,
    *,
    keys: KeyOptions = DEFAULT_KEYS,
    revision: AtRevision = None,
    allow_empty: AllowEmpty = False,
    connection: ConnectionOptions = DEFAULT_CONNECTION,
) -> None:
    """Replace a record's data with standard input."""
    owner, data = keys.choose(key_id), read_secret(key_id, allow_empty=allow_empty)
    async with connection.connect(owner.ring) as vault:
        _report(key_id, await vault.update(key_id, data, key=owner.key, revision=revision))


@app.command
async def delete(
    key_id: KeyId,
    /,
    *,
    keys: KeyOptions = DEFAULT_KEYS,
    revision: AtRevision = None,
    connection: ConnectionOptions = DEFAULT_CONNECTION,
) -> None:
    """Delete a record. Its name stays reserved for its key."""
    owner = keys.choose(key_id)
    async with connection.connect(owner.ring) as vault:
        _report(key_id, await vault.delete(key_id, key=owner.key, revision=revision))


@app.command
async def rotate_key(
    key_id: KeyId,
    /,
    *,
    keys: KeyOptions = DEFAULT_KEYS,
    new_key: NewKeyFile,
    revision: AtRevision = None,
    connection: ConnectionOptions = DEFAULT_CONNECTION,
) -> None:
    """Hand a record to another key. The old key no longer opens or changes this record."""
    new = load_key(new_key)
    owner = keys.choose(key_id, without=new)
    async with connection.connect(owner.ring) as vault:
        done = await vault.rotate_key(key_id, key=owner.key, new_key=new, revision=revision)
    _report(key_id, done)


app.command(generate_key)
app.command(rewrap_key)
app.command(unwrap_key)
app.command(keys_app)
app.command(list_names, name="list")
app.command(history)
app.command(whoami)
app.command(seal_envelope, name="seal")
app.command(open_envelope, name="open")
app.command(inspect)
app.command(run)


@app.command
async def import_legacy(
    key_id: KeyId,
    /,
    *,
    key: Annotated[Path, Parameter(help="File for the new key; a key that is there already is used.")],
    allow_empty: AllowEmpty = False,
    connection: ConnectionOptions = DEFAULT_CONNECTION,
) -> None:
    """Import a legacy record, JSON {"data": ..., "secret": ...} on standard input, under a new key."""
    plaintext = open_legacy(read_message("Legacy record, one line, not shown: "))
    refuse_empty(plaintext, allow_empty=allow_empty)
    async with connection.connect() as vault:
        if not key.exists():
            (await vault.generate_key(key_id)).save(key)
        fresh = load_key(key)
        _report(key_id, await vault.create(key_id, plaintext, key=fresh))


def main() -> None:
    """Run the command; the entry point."""
    close_memory()
    quiet_grpc()
    try:
        _run()
    except UnusedCliTokensError:
        _exit(
            "too many arguments: send data to standard input; other users of this machine can see arguments",
            ExitCode.USAGE,
        )
    except CycloptsError as error:
        _exit(str(error), ExitCode.USAGE)
    except KeyVaultError as error:
        _exit(sentence_of(error), exit_code(error))
    except kve1.MalformedEnvelope as error:
        _exit(str(error), exit_code(error))
    except OSError as error:
        _exit(f"{error.filename or 'output'}: {error.strerror}", exit_code(error))
    except KeyboardInterrupt as error:
        _exit("interrupted: a change that was sent may have taken effect", exit_code(error))


def _run() -> None:
    try:
        app(exit_on_error=False, print_error=False)
    finally:
        flush_output()


def _exit(sentence: str, code: int) -> NoReturn:
    print_error(f"keyvault: {printable(' '.join(sentence.split()))}")
    sys.exit(code)


def _report(key_id: KeyId, done: Written) -> None:
    print(f"{key_id} is at revision {done.revision}{' (accepted in an earlier attempt)' if done.replayed else ''}")
