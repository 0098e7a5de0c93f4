"""protobuf <-> vault, nothing else: no rule is decided here. keyvault.proto documents the methods."""

# ruff: noqa: D102, N802

from typing import Any, TypeAlias, TypeVar

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from keyvault.v1 import keyvault_pb2 as pb
from keyvault.v1.keyvault_pb2_grpc import KeyVaultServicer
from keyvault_server.caller import current_caller
from keyvault_server.vault import Vault, Written

_Response = TypeVar("_Response", pb.CreateResponse, pb.UpdateResponse, pb.DeleteResponse, pb.RotateKeyResponse)
Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


class KeyVaultService(KeyVaultServicer):
    """The eight methods."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault

    async def GenerateKey(self, request: pb.GenerateKeyRequest, context: Context) -> pb.GenerateKeyResponse:
        key = await self._vault.generate_key(current_caller.get(), request.scope)
        return pb.GenerateKeyResponse(
            tenant=key.tenant, scope=key.scope, plaintext_key=key.plaintext, wrapped_key=key.wrapped_key
        )

    async def Create(self, request: pb.CreateRequest, context: Context) -> pb.CreateResponse:
        done = await self._vault.create(current_caller.get(), request.key_id, request.wrapped_key, request.envelope)
        return _written(pb.CreateResponse, done)

    async def Read(self, request: pb.ReadRequest, context: Context) -> pb.ReadResponse:
        caller = current_caller.get()
        found = await self._vault.read(
            caller, request.key_id, request.known_revision, include_deleted=request.include_deleted
        )
        return pb.ReadResponse(
            tenant=caller.tenant,
            envelope=found.envelope or b"",
            revision=found.revision,
            create_time=_timestamp(found.created),
            update_time=_timestamp(found.updated),
            deleted=found.deleted,
            not_modified=found.envelope is None,
        )

    async def Update(self, request: pb.UpdateRequest, context: Context) -> pb.UpdateResponse:
        done = await self._vault.update(current_caller.get(), request.key_id, request.wrapped_key, request.envelope)
        return _written(pb.UpdateResponse, done)

    async def Delete(self, request: pb.DeleteRequest, context: Context) -> pb.DeleteResponse:
        done = await self._vault.delete(current_caller.get(), request.key_id, request.wrapped_key, request.envelope)
        return _written(pb.DeleteResponse, done)

    async def RotateKey(self, request: pb.RotateKeyRequest, context: Context) -> pb.RotateKeyResponse:
        done = await self._vault.rotate_key(
            current_caller.get(),
            request.key_id,
            request.wrapped_key,
            request.authorization,
            request.new_wrapped_key,
            request.envelope,
        )
        return _written(pb.RotateKeyResponse, done)

    async def RewrapKey(self, request: pb.RewrapKeyRequest, context: Context) -> pb.RewrapKeyResponse:
        rewrapped = await self._vault.rewrap_key(current_caller.get(), request.wrapped_key)
        return pb.RewrapKeyResponse(wrapped_key=rewrapped)

    async def UnwrapKey(self, request: pb.UnwrapKeyRequest, context: Context) -> pb.UnwrapKeyResponse:
        key = await self._vault.unwrap_key(current_caller.get(), request.wrapped_key)
        return pb.UnwrapKeyResponse(tenant=key.tenant, scope=key.scope, plaintext_key=key.plaintext)


def _written(response: type[_Response], done: Written) -> _Response:
    """The four mutations answer alike."""
    return response(
        revision=done.revision,
        create_time=_timestamp(done.created),
        update_time=_timestamp(done.updated),
        replayed=done.replayed,
    )


def _timestamp(microseconds: int) -> Timestamp:
    seconds, rest = divmod(microseconds, 1_000_000)
    return Timestamp(seconds=seconds, nanos=rest * 1000)
