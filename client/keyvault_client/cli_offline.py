"""Commands of `keyvault` that need no server: they seal, open and show envelopes."""

import hashlib
from json import dumps
from typing import Annotated

from cyclopts import Parameter
from cyclopts.types import ExistingFile, PositiveInt

from keyvault_api import envelope as kve1
from keyvault_api.envelope import Kind
from keyvault_client.cli_key_options import DEFAULT_KEYS, KeyOptions
from keyvault_client.cli_parameters import AllowEmpty, AsJson, AsJsonData, KeyId, OutputFile, Raw
from keyvault_client.errors import InvalidRequest
from keyvault_client.grpcurl import create_request, parse_response, rotate_request
from keyvault_client.records import open_record, seal
from keyvault_client.terminal import load_key, read_message, read_secret, write_bytes, write_envelope, write_plaintext


def seal_envelope(
    key_id: KeyId,
    /,
    *,
    keys: KeyOptions = DEFAULT_KEYS,
    revision: Annotated[
        PositiveInt, Parameter(help="Revision of the envelope: 1 for Create, else the current one + 1.")
    ],
    tombstone: Annotated[bool, Parameter(help="Seal a tombstone, for Delete; standard input is not read.")] = False,
    new_key: Annotated[ExistingFile | None, Parameter(help="Seal under this key, for RotateKey.")] = None,
    allow_empty: AllowEmpty = False,
    json: Annotated[bool, Parameter(help="Write a request for `grpcurl -d @` instead of the envelope.")] = False,
) -> None:
    """Seal standard input without a server.

    Example: `echo -n s3cret | keyvault seal prod/db --revision 1 > db.kve`
    """
    if new_key is not None and (tombstone or not json):
        raise InvalidRequest("--new-key makes a RotateKey request: it needs --json and excludes --tombstone")
    new = load_key(new_key) if new_key else None
    current_key = keys.choose(key_id, without=new).find(key_id, without=new)
    sealing_key = new or current_key
    kind, plaintext = (Kind.TOMBSTONE, b"") if tombstone else (Kind.DATA, read_secret(key_id, allow_empty=allow_empty))
    envelope = seal(sealing_key, key_id, revision, plaintext, kind)
    if not json:
        write_envelope(envelope)
        return
    if new is None:
        write_bytes(create_request(key_id, current_key, envelope))
    else:
        write_bytes(rotate_request(key_id, current_key, new, revision, envelope))


def open_envelope(
    key_id: KeyId,
    /,
    *,
    keys: KeyOptions = DEFAULT_KEYS,
    output: OutputFile = None,
    raw: Raw = False,
    json: AsJsonData = False,
) -> None:
    """Open an envelope, or grpcurl's JSON of a Read, from standard input without a server.

    Example: `keyvault open prod/db < db.kve`
    """
    if raw and json:
        raise InvalidRequest("--raw and --json exclude each other")
    chosen = keys.choose(key_id, output=output)
    answer = parse_response(read_message())
    record = chosen.open(key_id, lambda owner: open_record(key_id, answer, owner))
    fields = {name: value for name, value in record.to_json().items() if name not in ("create_time", "update_time")}
    write_plaintext(f"{dumps(fields)}\n".encode() if json else record.plaintext, output, raw=raw)


def inspect(*, json: AsJson = False) -> None:
    """Show an envelope's public fields (no key needed), from an envelope or grpcurl's JSON of a Read.

    Example: `keyvault inspect < db.kve`
    """
    envelope = parse_response(read_message()).envelope
    header = kve1.parse(envelope)
    fields = {
        "kind": header.kind.name,
        "revision": header.revision,
        "plaintext": kve1.plaintext_size(len(envelope)),
        "salt": envelope[16:40].hex(),
        "commitment": envelope[40:72].hex(),
        "sha256": hashlib.sha256(envelope).hexdigest(),
    }
    if json:
        print(dumps(fields))
        return
    for name, value in fields.items():
        shown = {"plaintext": f"{value} bytes"}.get(name, value)
        print(f"{'SHA-256' if name == 'sha256' else name:11} {shown}")
