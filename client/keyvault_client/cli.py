"""The command `keyvault`: the client library from a shell.

The rules of this file: a secret goes through files, standard input and standard output, never through an argument. A
failure is one line on standard error and exit 1, bad usage one line and exit 2. There is no traceback.
"""

import hashlib
import sys
from importlib.metadata import version
from json import dumps
from pathlib import Path
from typing import Annotated, NoReturn

from cyclopts import App, CycloptsError, Parameter, UnusedCliTokensError
from cyclopts.types import ExistingFile, NonExistentPath, PositiveInt

from keyvault_api import envelope as kve1
from keyvault_api.envelope import Kind
from keyvault_api.printable import printable
from keyvault_api.process import close_memory
from keyvault_client.connection_options import DEFAULT_CONNECTION, ConnectionOptions
from keyvault_client.errors import InvalidRequest, KeyVaultError, WrongRevision
from keyvault_client.grpcurl import create_request, parse_response, rotate_request
from keyvault_client.legacy import open_legacy
from keyvault_client.records import Written, open_record, seal
from keyvault_client.terminal import (
    check_key_output,
    flush_output,
    load_key,
    load_key_to_change,
    print_error,
    quiet_grpc,
    read_message,
    read_secret,
    refuse_empty,
    write_bytes,
    write_changed_key,
    write_envelope,
    write_key,
    write_plaintext,
)

app = App(
    name="keyvault",
    help="Keep secrets in a KeyVault server that cannot read them. Data comes from standard input; a terminal asks for "
    "it.\n\n"
    "Exit status: 0 success, 1 failure, 2 bad usage. One line on standard error says what is wrong.",
    version=lambda: version("keyvault-grpc"),
    default_parameter=Parameter(negative="", show_default=False),
    suppress_keyboard_interrupt=False,
)


KeyId = Annotated[str, Parameter(help="The record's name.")]
KeyFile = Annotated[ExistingFile, Parameter(help="A key file, as generate-key writes it.")]
NewFile = Annotated[NonExistentPath | None, Parameter(help="Save the key to this new file instead of standard output.")]
InPlace = Annotated[bool, Parameter(help="Replace the key file; the old one stays until the new one is on the disk.")]
AllowEmpty = Annotated[bool, Parameter(help="Accept data of 0 bytes, which is otherwise refused.")]
Raw = Annotated[bool, Parameter(help="Write the bytes as they are to a terminal, too.")]
AsJson = Annotated[bool, Parameter(help="Write JSON.")]
AtRevision = Annotated[PositiveInt | None, Parameter(help="Only write if the record is at this revision.")]


@app.command
async def generate_key(
    scope: Annotated[
        str, Parameter(help='A key_id, or a prefix ending in "/". Default: a key_id that the server generates.')
    ] = "",
    /,
    *,
    without_plaintext: Annotated[bool, Parameter(help="Leave out plaintext_key; unwrap-key can get it back.")] = False,
    save: NewFile = None,
    connection: ConnectionOptions = DEFAULT_CONNECTION,
) -> None:
    """Save a new data key: `keyvault generate-key prod/ --save prod.key`. Without --save it goes to standard output."""
    check_key_output(save)
    async with connection.connect() as vault:
        key = await vault.generate_key(scope)
    write_key(key.without_plaintext() if without_plaintext else key, save)


@app.command
async def create(
    key_id: KeyId,
    /,
    *,
    key: KeyFile,
    revision: Annotated[
        PositiveInt | None,
        Parameter(help="Last revision of a purged name, as its operator knows it: go on from there."),
    ] = None,
    allow_empty: AllowEmpty = False,
    connection: ConnectionOptions = DEFAULT_CONNECTION,
) -> None:
    """Store standard input as a new record."""
    owner, data = load_key(key), read_secret(key_id, allow_empty=allow_empty)
    async with connection.connect() as vault:
        _report(key_id, await vault.create(key_id, data, key=owner, revision=revision))


@app.command
async def read(
    key_id: KeyId, /, *, key: KeyFile, raw: Raw = False, connection: ConnectionOptions = DEFAULT_CONNECTION
) -> None:
    """Write a record's data to standard output."""
    async with connection.connect() as vault:
        record = await vault.read(key_id, key=load_key(key))
    write_plaintext(record.plaintext, raw=raw)


@app.command
async def update(
    key_id: KeyId,
    /,
    *,
    key: KeyFile,
    revision: AtRevision = None,
    allow_empty: AllowEmpty = False,
    connection: ConnectionOptions = DEFAULT_CONNECTION,
) -> None:
    """Replace a record's data with standard input."""
    owner, data = load_key(key), read_secret(key_id, allow_empty=allow_empty)
    async with connection.connect() as vault:
        _report(key_id, await vault.update(key_id, data, key=owner, revision=revision))


@app.command
async def delete(
    key_id: KeyId, /, *, key: KeyFile, revision: AtRevision = None, connection: ConnectionOptions = DEFAULT_CONNECTION
) -> None:
    """Delete a record. Its name stays reserved for its key."""
    async with connection.connect() as vault:
        _report(key_id, await vault.delete(key_id, key=load_key(key), revision=revision))


@app.command
async def rotate_key(
    key_id: KeyId,
    /,
    *,
    key: KeyFile,
    new_key: KeyFile,
    revision: AtRevision = None,
    connection: ConnectionOptions = DEFAULT_CONNECTION,
) -> None:
    """Hand a record to another key. The old key no longer opens or changes this record."""
    async with connection.connect() as vault:
        done = await vault.rotate_key(key_id, key=load_key(key), new_key=load_key(new_key), revision=revision)
    _report(key_id, done)


@app.command
async def rewrap_key(
    *,
    key: KeyFile,
    save: NewFile = None,
    in_place: InPlace = False,
    connection: ConnectionOptions = DEFAULT_CONNECTION,
) -> None:
    """Wrap a key under the server's current master key. The key goes to standard output, --save or --in-place."""
    old = load_key_to_change(key, save, in_place=in_place)
    async with connection.connect() as vault:
        write_changed_key(await vault.rewrap_key(old), key, save, in_place=in_place)


@app.command
async def unwrap_key(
    *,
    key: KeyFile,
    save: NewFile = None,
    in_place: InPlace = False,
    connection: ConnectionOptions = DEFAULT_CONNECTION,
) -> None:
    """Get a key's plaintext, if the server allows that. The key goes to standard output, --save or --in-place."""
    old = load_key_to_change(key, save, in_place=in_place)
    async with connection.connect() as vault:
        write_changed_key(await vault.unwrap_key(old), key, save, in_place=in_place)


@app.command
async def whoami(*, json: AsJson = False, connection: ConnectionOptions = DEFAULT_CONNECTION) -> None:
    """Show how the server sees you: identity, tenant, and what its policy allows."""
    async with connection.connect() as vault:
        you = await vault.whoami()
    print(dumps(you.to_json()) if json else you)


@app.command(name="seal")
def seal_command(
    key_id: KeyId,
    /,
    *,
    key: KeyFile,
    revision: Annotated[
        PositiveInt, Parameter(help="Revision of the envelope: 1 for Create, else the current one + 1.")
    ],
    tombstone: Annotated[bool, Parameter(help="Seal a tombstone, for Delete; standard input is not read.")] = False,
    new_key: Annotated[ExistingFile | None, Parameter(help="Seal under this key, for RotateKey.")] = None,
    allow_empty: AllowEmpty = False,
    json: Annotated[bool, Parameter(help="Write a request for `grpcurl -d @` instead of the envelope.")] = False,
) -> None:
    """Seal standard input without a server."""
    if new_key is not None and (tombstone or not json):
        raise InvalidRequest("--new-key makes a RotateKey request: it needs --json and excludes --tombstone")
    current_key = load_key(key)
    sealing_key = load_key(new_key) if new_key else current_key
    kind, plaintext = (Kind.TOMBSTONE, b"") if tombstone else (Kind.DATA, read_secret(key_id, allow_empty=allow_empty))
    envelope = seal(sealing_key, key_id, revision, plaintext, kind)
    if not json:
        write_envelope(envelope)
        return
    if new_key is None:
        write_bytes(create_request(key_id, current_key, envelope))
    else:
        write_bytes(rotate_request(key_id, current_key, sealing_key, revision, envelope))


@app.command(name="open")
def open_command(key_id: KeyId, /, *, key: KeyFile, raw: Raw = False) -> None:
    """Open an envelope, or grpcurl's JSON of a Read, from standard input without a server."""
    owner = load_key(key)
    write_plaintext(open_record(key_id, parse_response(read_message()), owner).plaintext, raw=raw)


@app.command
def inspect() -> None:
    """Show an envelope's public fields (no key needed), from an envelope or grpcurl's JSON of a Read."""
    envelope = parse_response(read_message()).envelope
    header = kve1.parse(envelope)
    print(f"kind        {header.kind.name}")
    print(f"revision    {header.revision}")
    print(f"plaintext   {kve1.plaintext_size(len(envelope))} bytes")
    print(f"salt        {envelope[16:40].hex()}")
    print(f"commitment  {envelope[40:72].hex()}")
    print(f"SHA-256     {hashlib.sha256(envelope).hexdigest()}")


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
        _exit("too many arguments: send data to standard input; other users of this machine can see arguments", 2)
    except CycloptsError as error:
        _exit(str(error), 2)
    except InvalidRequest as error:
        _exit(str(error), 1 if error.reason else 2)  # 1: the server said so; 2: found before it was sent
    except kve1.MalformedEnvelope as error:
        _exit(str(error), 1)
    except KeyVaultError as error:
        _exit(f"{error}{_current(error)}{f' [{error.reason} {error.request_id}]' if error.reason else ''}", 1)
    except OSError as error:
        _exit(f"{error.filename or 'output'}: {error.strerror}", 1)
    except KeyboardInterrupt:
        _exit("interrupted: a change that was sent may have taken effect", 130)


def _run() -> None:
    try:
        app(exit_on_error=False, print_error=False)
    finally:
        flush_output()


def _exit(sentence: str, code: int) -> NoReturn:
    print_error(f"keyvault: {printable(' '.join(sentence.split()))}")
    sys.exit(code)


def _current(error: KeyVaultError) -> str:
    """Return what the server says about a record that is at another revision."""
    if not isinstance(error, WrongRevision) or error.vacant or not error.current_revision:
        return ""
    return f"; the record is at revision {error.current_revision}"


def _report(key_id: KeyId, done: Written) -> None:
    print(f"{key_id} is at revision {done.revision}{' (accepted in an earlier attempt)' if done.replayed else ''}")
