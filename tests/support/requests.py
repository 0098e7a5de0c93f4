"""Requests as a caller without our client library makes them."""

import hashlib
import os
from base64 import b64encode
from dataclasses import dataclass

import grpc

from keyvault_api import envelope
from keyvault_api.envelope import Kind
from keyvault_api.v1 import keyvault_pb2 as pb
from keyvault_api.v1.keyvault_pb2_grpc import KeyVaultStub


@dataclass(frozen=True)
class Key:
    """A data key in both forms."""

    plaintext: bytes
    wrapped: bytes
    tenant: str = "default"

    def seal(self, key_id: str, revision: int, data: bytes = b"data", kind: Kind = Kind.DATA) -> bytes:
        return envelope.seal(self.plaintext, self.tenant, key_id, revision, data, kind)

    def open(self, key_id: str, sealed: bytes) -> bytes:
        return envelope.open(self.plaintext, self.tenant, key_id, sealed)

    def file(self, scope: str) -> dict[str, str]:
        """Return what a key file has of it, as JSON."""
        plaintext, wrapped = (b64encode(form).decode() for form in (self.plaintext, self.wrapped))
        return {"tenant": self.tenant, "scope": scope, "plaintext_key": plaintext, "wrapped_key": wrapped}


def some_envelope(revision: int = 1, size: int = 100) -> bytes:
    """What looks like an envelope of DATA to somebody without a key."""
    return bytes.fromhex("4b56450101010000") + revision.to_bytes(8, "big") + os.urandom(72 + size)


async def mint(stub: KeyVaultStub, scope: str) -> Key:
    made = await stub.GenerateKey(pb.GenerateKeyRequest(scope=scope))
    return Key(made.plaintext_key, made.wrapped_key, made.tenant)


async def stored_revision(stub: KeyVaultStub, key_id: str) -> int:
    """Return the revision that the server has, a tombstone's too; 0 for a name without a record."""
    try:
        return (await stub.Read(pb.ReadRequest(key_id=key_id, include_deleted=True))).revision
    except grpc.aio.AioRpcError as failed:
        if failed.code() is grpc.StatusCode.NOT_FOUND:
            return 0
        raise


def create(key: Key, key_id: str, data: bytes = b"data", revision: int = 1) -> pb.CreateRequest:
    return pb.CreateRequest(key_id=key_id, wrapped_key=key.wrapped, envelope=key.seal(key_id, revision, data))


def update(key: Key, key_id: str, revision: int, data: bytes = b"data") -> pb.UpdateRequest:
    return pb.UpdateRequest(key_id=key_id, wrapped_key=key.wrapped, envelope=key.seal(key_id, revision, data))


def delete(key: Key, key_id: str, revision: int) -> pb.DeleteRequest:
    tombstone = key.seal(key_id, revision, b"", Kind.TOMBSTONE)
    return pb.DeleteRequest(key_id=key_id, wrapped_key=key.wrapped, envelope=tombstone)


def rotate(key: Key, new: Key, key_id: str, revision: int, data: bytes = b"data") -> pb.RotateKeyRequest:
    sealed = new.seal(key_id, revision, data)
    return pb.RotateKeyRequest(
        key_id=key_id,
        wrapped_key=key.wrapped,
        authorization=key.seal(key_id, revision, hashlib.sha256(sealed).digest(), Kind.REKEY),
        new_wrapped_key=new.wrapped,
        envelope=sealed,
    )
