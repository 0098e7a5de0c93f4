"""The command `keyvault`: the client library from a shell.

The rules of this file: a secret goes through files, standard input and standard output, never through an argument; a
refusal is one line on standard error and exit 1, bad usage one line and exit 2; there is no traceback.
"""

import hashlib
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, NoReturn

from cyclopts import App, CycloptsError, Parameter, UnusedCliTokensError
from cyclopts.types import ExistingFile, NonExistentPath, PositiveFloat, PositiveInt
from google.protobuf import json_format

from keyvault_api import envelope as kve1
from keyvault_api.envelope import Kind
from keyvault_api.v1 import keyvault_pb2 as pb
from keyvault_client.errors import InvalidRequest, KeyVaultError, WrongRevision
from keyvault_client.keys import DataKey
from keyvault_client.legacy import open_legacy
from keyvault_client.records import Written, opened, sealed
from keyvault_client.terminal import (
    flush_output,
    load_or_save_key,
    quiet_grpc,
    read_message,
    read_secret,
    refuse_screen,
    tell,
    write_bytes,
    write_key,
)
from keyvault_client.tls import TLS
from keyvault_client.vault import KeyVault

app = App(
    name="keyvault",
    help="Keeps secrets in a KeyVault server that cannot read them. Data comes from standard input.\n\n"
    "Exit status: 0 done, 1 refused, 2 bad usage; one line on standard error says why.",
    version=lambda: version("keyvault-grpc"),
    default_parameter=Parameter(negative="", show_default=False),
    suppress_keyboard_interrupt=False,
)


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class Server:
    """Where the server is and how it is spoken to."""

    address: Annotated[
        str, Parameter(env_var="KEYVAULT_ADDRESS", show_default=True, help="host:port or unix:/path.")
    ] = "127.0.0.1:50051"
    timeout: Annotated[
        PositiveFloat, Parameter(env_var="KEYVAULT_TIMEOUT", show_default=True, help="Seconds, retries included.")
    ] = 10.0
    ca: Annotated[ExistingFile | None, Parameter(env_var="KEYVAULT_CA", help="PEM roots; turns TLS on.")] = None
    certificate: Annotated[
        ExistingFile | None, Parameter(env_var="KEYVAULT_CERTIFICATE", help="PEM chain of this client; turns TLS on.")
    ] = None
    private_key: Annotated[
        ExistingFile | None, Parameter(env_var="KEYVAULT_PRIVATE_KEY", help="PEM key of this client.")
    ] = None
    token_file: Annotated[
        ExistingFile | None,
        Parameter(env_var="KEYVAULT_TOKEN_FILE", help="A bearer token, not sent to another machine in clear."),
    ] = None
    tls: Annotated[bool, Parameter(help="TLS with the system's roots.")] = False
    insecure: Annotated[
        bool, Parameter(env_var="KEYVAULT_INSECURE", help="Plaintext to another machine, keys included.")
    ] = False

    def connect(self) -> KeyVault:
        """A client. Raises InvalidRequest."""
        if (self.certificate is None) is not (self.private_key is None):
            raise InvalidRequest("--certificate and --private-key come together")
        tls = TLS(self.ca, self.certificate, self.private_key) if self.tls or self.ca or self.certificate else None
        return KeyVault(self.address, tls=tls, insecure=self.insecure, token_file=self.token_file, timeout=self.timeout)


HERE = Server()
KeyId = Annotated[str, Parameter(help="The record's name.")]
KeyFile = Annotated[ExistingFile, Parameter(help="A file that generate-key wrote.")]
NewFile = Annotated[NonExistentPath | None, Parameter(help="A new file for the key, instead of standard output.")]
AtRevision = Annotated[
    PositiveInt | None, Parameter(help="The revision to replace, as the last change told it; refused if it is another.")
]


@app.command
async def generate_key(
    scope: Annotated[str, Parameter(help='A key_id, or a prefix ending in "/"; none: a name is made up.')] = "",
    /,
    *,
    without_plaintext: Annotated[bool, Parameter(help="Leave plaintext_key out; see unwrap-key.")] = False,
    save: NewFile = None,
    server: Server = HERE,
) -> None:
    """Write a fresh data key to standard output: `keyvault generate-key prod/ > prod.key`."""
    refuse_screen(save)
    async with server.connect() as vault:
        key = await vault.generate_key(scope)
    write_key(key.without_plaintext() if without_plaintext else key, save)


@app.command
async def create(key_id: KeyId, /, *, key: KeyFile, server: Server = HERE) -> None:
    """Store standard input as a new record."""
    async with server.connect() as vault:
        _report(key_id, await vault.create(key_id, read_secret(), key=DataKey.load(key)))


@app.command
async def read(key_id: KeyId, /, *, key: KeyFile, server: Server = HERE) -> None:
    """Write a record's bytes to standard output."""
    async with server.connect() as vault:
        write_bytes((await vault.read(key_id, key=DataKey.load(key))).plaintext)


@app.command
async def update(key_id: KeyId, /, *, key: KeyFile, revision: AtRevision = None, server: Server = HERE) -> None:
    """Replace a record by standard input."""
    async with server.connect() as vault:
        _report(key_id, await vault.update(key_id, read_secret(), key=DataKey.load(key), revision=revision))


@app.command
async def delete(key_id: KeyId, /, *, key: KeyFile, revision: AtRevision = None, server: Server = HERE) -> None:
    """Delete a record; its name stays yours."""
    async with server.connect() as vault:
        _report(key_id, await vault.delete(key_id, key=DataKey.load(key), revision=revision))


@app.command
async def rotate_key(
    key_id: KeyId, /, *, key: KeyFile, new_key: KeyFile, revision: AtRevision = None, server: Server = HERE
) -> None:
    """Hand a record to another key: whoever has only the old one is out of this record."""
    async with server.connect() as vault:
        done = await vault.rotate_key(key_id, key=DataKey.load(key), new_key=DataKey.load(new_key), revision=revision)
    _report(key_id, done)


@app.command
async def rewrap_key(*, key: KeyFile, save: NewFile = None, server: Server = HERE) -> None:
    """Write a key, wrapped under the server's current master key, to standard output: not to its own file."""
    refuse_screen(save)
    async with server.connect() as vault:
        write_key(await vault.rewrap_key(DataKey.load(key)), save)


@app.command
async def unwrap_key(*, key: KeyFile, save: NewFile = None, server: Server = HERE) -> None:
    """Write a key with its plaintext to standard output, where the server allows that for its scope."""
    refuse_screen(save)
    async with server.connect() as vault:
        write_key(await vault.unwrap_key(DataKey.load(key)), save)


@app.command
def seal(
    key_id: KeyId,
    /,
    *,
    key: KeyFile,
    revision: Annotated[PositiveInt, Parameter(help="The envelope's own: 1 to create, the stored one + 1 else.")],
    tombstone: Annotated[bool, Parameter(help="For Delete; standard input is not read.")] = False,
    new_key: Annotated[ExistingFile | None, Parameter(help="For RotateKey: seals under this one.")] = None,
    json: Annotated[bool, Parameter(help="A request for `grpcurl -d @`, not the bare envelope.")] = False,
) -> None:
    """Seal standard input without a server."""
    if new_key is not None and (tombstone or not json):
        raise InvalidRequest("--new-key makes a RotateKey request: with --json and without --tombstone")
    present = DataKey.load(key)
    sealing = DataKey.load(new_key) if new_key else present
    kind, plaintext = (Kind.TOMBSTONE, b"") if tombstone else (Kind.DATA, read_secret())
    envelope = sealed(sealing, key_id, revision, plaintext, kind)
    if not json:
        write_bytes(envelope)
        return
    request: pb.CreateRequest | pb.RotateKeyRequest = pb.CreateRequest(
        key_id=key_id, wrapped_key=present.wrapped_key, envelope=envelope
    )
    if new_key is not None:
        permit = sealed(present, key_id, revision, hashlib.sha256(envelope).digest(), Kind.REKEY)
        request = pb.RotateKeyRequest(
            key_id=key_id,
            wrapped_key=present.wrapped_key,
            authorization=permit,
            new_wrapped_key=sealing.wrapped_key,
            envelope=envelope,
        )
    write_bytes(json_format.MessageToJson(request, preserving_proto_field_name=True).encode() + b"\n")


@app.command(name="open")
def open_command(key_id: KeyId, /, *, key: KeyFile) -> None:
    """Open an envelope, or grpcurl's JSON of a Read, from standard input, without a server."""
    response = _response(read_message())
    write_bytes(opened(key_id, response, DataKey.load(key)).plaintext)


@app.command
def inspect() -> None:
    """Say what an envelope, or grpcurl's JSON of a Read, from standard input, shows without a key."""
    envelope = _response(read_message()).envelope
    header = kve1.parse(envelope)
    chunks = (len(envelope) - kve1.HEAD_SIZE) // 16_400 + 1
    print(f"kind        {header.kind.name}")
    print(f"revision    {header.revision}")
    print(f"plaintext   {len(envelope) - kve1.HEAD_SIZE - 16 * chunks} bytes")
    print(f"salt        {envelope[16:40].hex()}")
    print(f"commitment  {envelope[40:72].hex()}")
    print(f"SHA-256     {hashlib.sha256(envelope).hexdigest()}")


@app.command
async def import_legacy(
    key_id: KeyId,
    /,
    *,
    key: Annotated[Path, Parameter(help="Where the fresh key is saved; one from an earlier try is used again.")],
    server: Server = HERE,
) -> None:
    """Take over an old record, JSON {"data": ..., "secret": ...} on standard input, under a fresh key."""
    plaintext = open_legacy(read_message())
    async with server.connect() as vault:
        fresh = load_or_save_key(key, None if key.exists() else await vault.generate_key(key_id))
        _report(key_id, await vault.create(key_id, plaintext, key=fresh))


def main() -> None:
    """Entry point."""
    quiet_grpc()
    try:
        _run()
    except UnusedCliTokensError:
        _refuse("too many arguments: data comes from standard input, where others on this machine cannot read it", 2)
    except CycloptsError as error:
        _refuse(str(error), 2)
    except InvalidRequest as error:
        _refuse(str(error), 1 if error.reason else 2)  # the server's, or found here
    except kve1.MalformedEnvelope as error:
        _refuse(str(error), 1)
    except KeyVaultError as error:
        now = f", it is at revision {error.current_revision}" if isinstance(error, WrongRevision) else ""
        _refuse(f"{error}{now}{f' [{error.reason} {error.request_id}]' if error.reason else ''}", 1)
    except OSError as error:
        _refuse(f"{error.filename or 'output'}: {error.strerror}", 1)
    except KeyboardInterrupt:
        _refuse("interrupted: a change that was sent may have been made", 130)


def _run() -> None:
    try:
        app(exit_on_error=False, print_error=False)
    finally:
        flush_output()


def _refuse(sentence: str, code: int) -> NoReturn:
    tell(f"keyvault: {' '.join(sentence.split())}")
    sys.exit(code)


def _report(key_id: KeyId, done: Written) -> None:
    print(f"{key_id} is at revision {done.revision}{' (done by an earlier try)' if done.replayed else ''}")


def _response(data: bytes) -> pb.ReadResponse:
    """What grpcurl printed, or a bare envelope as if it had been read."""
    if data.startswith(b"KVE"):
        return pb.ReadResponse(envelope=data, revision=kve1.parse(data).revision)
    try:
        return json_format.Parse(data, pb.ReadResponse())
    except (json_format.ParseError, UnicodeDecodeError):
        raise InvalidRequest("standard input is neither an envelope nor the JSON of a ReadResponse") from None
