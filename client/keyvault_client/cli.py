"""The command `keyvault`: the client library from a shell.

The rules of this file: a secret goes through files, standard input and standard output, never through an argument. A
failure is one line on standard error and exit 1, bad usage one line and exit 2. There is no traceback.
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
from keyvault_client.records import Written, open_record, seal
from keyvault_client.terminal import (
    flush_output,
    load_or_save_key,
    print_error,
    quiet_grpc,
    read_message,
    read_secret,
    refuse_terminal_output,
    write_bytes,
    write_key,
)
from keyvault_client.tls import TLS
from keyvault_client.vault import KeyVault

app = App(
    name="keyvault",
    help="Keep secrets in a KeyVault server that cannot read them. Data comes from standard input.\n\n"
    "Exit status: 0 success, 1 failure, 2 bad usage. One line on standard error says what is wrong.",
    version=lambda: version("keyvault-grpc"),
    default_parameter=Parameter(negative="", show_default=False),
    suppress_keyboard_interrupt=False,
)


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class ConnectionOptions:
    """Address of the server, and how to connect to it."""

    address: Annotated[
        str, Parameter(env_var="KEYVAULT_ADDRESS", show_default=True, help="host:port or unix:/path.")
    ] = "127.0.0.1:50051"
    timeout: Annotated[
        PositiveFloat,
        Parameter(env_var="KEYVAULT_TIMEOUT", show_default=True, help="Seconds for the whole call, retries included."),
    ] = 10.0
    ca: Annotated[
        ExistingFile | None, Parameter(env_var="KEYVAULT_CA", help="PEM file of CA certificates; turns TLS on.")
    ] = None
    certificate: Annotated[
        ExistingFile | None,
        Parameter(env_var="KEYVAULT_CERTIFICATE", help="PEM file of this client's certificate chain; turns TLS on."),
    ] = None
    private_key: Annotated[
        ExistingFile | None,
        Parameter(env_var="KEYVAULT_PRIVATE_KEY", help="PEM file of this client's private key, unencrypted."),
    ] = None
    token_file: Annotated[
        ExistingFile | None,
        Parameter(
            env_var="KEYVAULT_TOKEN_FILE",
            help="File with a bearer token. Needs TLS unless the server is on this machine.",
        ),
    ] = None
    tls: Annotated[bool, Parameter(help="Use TLS with the system's CA certificates.")] = False
    insecure: Annotated[
        bool, Parameter(env_var="KEYVAULT_INSECURE", help="Allow plaintext to another machine, keys included.")
    ] = False

    def connect(self) -> KeyVault:
        """Return a client with these options. Raises InvalidRequest."""
        if (self.certificate is None) is not (self.private_key is None):
            raise InvalidRequest("--certificate and --private-key must be given together")
        tls = TLS(self.ca, self.certificate, self.private_key) if self.tls or self.ca or self.certificate else None
        return KeyVault(self.address, tls=tls, insecure=self.insecure, token_file=self.token_file, timeout=self.timeout)


DEFAULT_CONNECTION = ConnectionOptions()
KeyId = Annotated[str, Parameter(help="The record's name.")]
KeyFile = Annotated[ExistingFile, Parameter(help="A key file, as generate-key writes it.")]
NewFile = Annotated[NonExistentPath | None, Parameter(help="Save the key to this new file instead of standard output.")]
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
    """Write a new data key to standard output: `keyvault generate-key prod/ > prod.key`."""
    refuse_terminal_output(save)
    async with connection.connect() as vault:
        key = await vault.generate_key(scope)
    write_key(key.without_plaintext() if without_plaintext else key, save)


@app.command
async def create(key_id: KeyId, /, *, key: KeyFile, connection: ConnectionOptions = DEFAULT_CONNECTION) -> None:
    """Store standard input as a new record."""
    async with connection.connect() as vault:
        _report(key_id, await vault.create(key_id, read_secret(), key=DataKey.load(key)))


@app.command
async def read(key_id: KeyId, /, *, key: KeyFile, connection: ConnectionOptions = DEFAULT_CONNECTION) -> None:
    """Write a record's data to standard output."""
    async with connection.connect() as vault:
        write_bytes((await vault.read(key_id, key=DataKey.load(key))).plaintext)


@app.command
async def update(
    key_id: KeyId, /, *, key: KeyFile, revision: AtRevision = None, connection: ConnectionOptions = DEFAULT_CONNECTION
) -> None:
    """Replace a record's data with standard input."""
    async with connection.connect() as vault:
        _report(key_id, await vault.update(key_id, read_secret(), key=DataKey.load(key), revision=revision))


@app.command
async def delete(
    key_id: KeyId, /, *, key: KeyFile, revision: AtRevision = None, connection: ConnectionOptions = DEFAULT_CONNECTION
) -> None:
    """Delete a record. Its name stays reserved for its key."""
    async with connection.connect() as vault:
        _report(key_id, await vault.delete(key_id, key=DataKey.load(key), revision=revision))


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
        done = await vault.rotate_key(key_id, key=DataKey.load(key), new_key=DataKey.load(new_key), revision=revision)
    _report(key_id, done)


@app.command
async def rewrap_key(*, key: KeyFile, save: NewFile = None, connection: ConnectionOptions = DEFAULT_CONNECTION) -> None:
    """Write a key, wrapped under the server's current master key, to standard output (not to the same file)."""
    refuse_terminal_output(save)
    async with connection.connect() as vault:
        write_key(await vault.rewrap_key(DataKey.load(key)), save)


@app.command
async def unwrap_key(*, key: KeyFile, save: NewFile = None, connection: ConnectionOptions = DEFAULT_CONNECTION) -> None:
    """Write a key with its plaintext to standard output, if the server allows that for its scope."""
    refuse_terminal_output(save)
    async with connection.connect() as vault:
        write_key(await vault.unwrap_key(DataKey.load(key)), save)


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
    json: Annotated[bool, Parameter(help="Write a request for `grpcurl -d @` instead of the envelope.")] = False,
) -> None:
    """Seal standard input without a server."""
    if new_key is not None and (tombstone or not json):
        raise InvalidRequest("--new-key makes a RotateKey request: it needs --json and excludes --tombstone")
    current_key = DataKey.load(key)
    sealing_key = DataKey.load(new_key) if new_key else current_key
    kind, plaintext = (Kind.TOMBSTONE, b"") if tombstone else (Kind.DATA, read_secret())
    envelope = seal(sealing_key, key_id, revision, plaintext, kind)
    if not json:
        write_bytes(envelope)
        return
    request: pb.CreateRequest | pb.RotateKeyRequest = pb.CreateRequest(
        key_id=key_id, wrapped_key=current_key.wrapped_key, envelope=envelope
    )
    if new_key is not None:
        authorization = seal(current_key, key_id, revision, hashlib.sha256(envelope).digest(), Kind.REKEY)
        request = pb.RotateKeyRequest(
            key_id=key_id,
            wrapped_key=current_key.wrapped_key,
            authorization=authorization,
            new_wrapped_key=sealing_key.wrapped_key,
            envelope=envelope,
        )
    write_bytes(json_format.MessageToJson(request, preserving_proto_field_name=True).encode() + b"\n")


@app.command(name="open")
def open_command(key_id: KeyId, /, *, key: KeyFile) -> None:
    """Open an envelope, or grpcurl's JSON of a Read, from standard input without a server."""
    response = _response(read_message())
    write_bytes(open_record(key_id, response, DataKey.load(key)).plaintext)


@app.command
def inspect() -> None:
    """Show an envelope's public fields (no key needed), from an envelope or grpcurl's JSON of a Read."""
    envelope = _response(read_message()).envelope
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
    connection: ConnectionOptions = DEFAULT_CONNECTION,
) -> None:
    """Import a legacy record, JSON {"data": ..., "secret": ...} on standard input, under a new key."""
    plaintext = open_legacy(read_message())
    async with connection.connect() as vault:
        fresh = load_or_save_key(key, None if key.exists() else await vault.generate_key(key_id))
        _report(key_id, await vault.create(key_id, plaintext, key=fresh))


def main() -> None:
    """Run the command; the entry point."""
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
        current = f"; the record is at revision {error.current_revision}" if isinstance(error, WrongRevision) else ""
        _exit(f"{error}{current}{f' [{error.reason} {error.request_id}]' if error.reason else ''}", 1)
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
    print_error(f"keyvault: {' '.join(sentence.split())}")
    sys.exit(code)


def _report(key_id: KeyId, done: Written) -> None:
    print(f"{key_id} is at revision {done.revision}{' (accepted in an earlier attempt)' if done.replayed else ''}")


def _response(data: bytes) -> pb.ReadResponse:
    """Parse what grpcurl printed, or wrap a bare envelope as if it had been read."""
    if data.startswith(b"KVE"):
        return pb.ReadResponse(envelope=data, revision=kve1.parse(data).revision)
    try:
        return json_format.Parse(data, pb.ReadResponse())
    except (json_format.ParseError, UnicodeDecodeError):
        raise InvalidRequest("standard input is neither an envelope nor the JSON of a ReadResponse") from None
