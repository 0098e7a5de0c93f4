"""Requests and responses in JSON, as grpcurl takes and prints them, for those who call by hand (docs/debugging.md)."""

import hashlib

from google.protobuf import json_format

from keyvault_api import envelope as kve1
from keyvault_api.envelope import Kind
from keyvault_api.v1 import keyvault_pb2 as pb
from keyvault_client.errors import InvalidRequest
from keyvault_client.keys import DataKey
from keyvault_client.records import seal


def create_request(key_id: str, key: DataKey, envelope: bytes) -> bytes:
    """Return the JSON of a Create, which Update and Delete take, too."""
    return _json(pb.CreateRequest(key_id=key_id, wrapped_key=key.wrapped_key, envelope=envelope))


def rotate_request(key_id: str, key: DataKey, new_key: DataKey, revision: int, envelope: bytes) -> bytes:
    """Return the JSON of a RotateKey to the key that sealed the envelope. Raises InvalidRequest."""
    return _json(
        pb.RotateKeyRequest(
            key_id=key_id,
            wrapped_key=key.wrapped_key,
            authorization=seal(key, key_id, revision, hashlib.sha256(envelope).digest(), Kind.REKEY),
            new_wrapped_key=new_key.wrapped_key,
            envelope=envelope,
        )
    )


def parse_response(data: bytes) -> pb.ReadResponse:
    """Parse the JSON of a Read, or wrap a bare envelope as if it had been read. Raises InvalidRequest."""
    if data.startswith(b"KVE"):
        return pb.ReadResponse(envelope=data, revision=kve1.parse(data).revision)
    try:
        return json_format.Parse(data, pb.ReadResponse())
    except (json_format.ParseError, UnicodeDecodeError):
        raise InvalidRequest("standard input is neither an envelope nor the JSON of a ReadResponse") from None


def _json(request: pb.CreateRequest | pb.RotateKeyRequest) -> bytes:
    return json_format.MessageToJson(request, preserving_proto_field_name=True).encode() + b"\n"
