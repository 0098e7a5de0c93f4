"""protobuf <-> vault and nothing else: no rule is applied here. keyvault.proto documents the methods."""

# ruff: noqa: D102, N802

import asyncio
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, TypeAlias, TypeVar

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from keyvault_api.names import POLICY_METHODS
from keyvault_api.v1 import keyvault_pb2 as pb
from keyvault_api.v1.keyvault_pb2_grpc import KeyVaultServicer
from keyvault_server.core.batch import MOST_ASKING, Item, read_many
from keyvault_server.core.caller import ANONYMOUS
from keyvault_server.core.errors import BatchFull, VaultError
from keyvault_server.core.listing import Page, list_names
from keyvault_server.core.reading import Found
from keyvault_server.core.turn import NO_WAIT
from keyvault_server.core.vault import Vault, Written
from keyvault_server.rpc.gatekeeper import Visitor, current_caller
from keyvault_server.rpc.slots import Slots
from keyvault_server.rpc.status import error_of_item, status_of

_Mutated = TypeVar("_Mutated", pb.CreateResponse, pb.UpdateResponse, pb.DeleteResponse, pb.RotateKeyResponse)
_Response = TypeVar(
    "_Response", pb.ReadResponse, pb.CreateResponse, pb.UpdateResponse, pb.DeleteResponse, pb.RotateKeyResponse
)
Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


class KeyVaultService(KeyVaultServicer):
    """The methods of the contract."""

    def __init__(self, vault: Vault, version: str = "", batch_reads: int = 8) -> None:
        """`version` is the server's; `batch_reads` is how many BatchReads, and Lists, it works on at a time."""
        self._vault = vault
        self._version = version
        self._batches, self._listings = Slots(batch_reads), Slots(batch_reads)
        self._asking = asyncio.Semaphore(MOST_ASKING) if vault.reads_together > 1 else NO_WAIT

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
            caller,
            request.key_id,
            request.known_revision,
            include_deleted=request.include_deleted,
            revision=request.revision,
        )
        return _record(caller.tenant, found)

    async def BatchRead(self, request: pb.BatchReadRequest, context: Context) -> pb.BatchReadResponse:
        caller = current_caller.get()
        items = [Item(item.key_id, item.known_revision, item.include_deleted) for item in request.items]
        async with AsyncExitStack() as turn:  # a batch that reads holds more memory than other calls
            wait_turn = partial(turn.enter_async_context, self._batches)
            answers = await read_many(self._vault, items, caller.reading_item, wait_turn, self._asking)
            if caller.is_audited:  # their lines share a write
                results = await asyncio.gather(*(_item_result(author, answer) for author, answer in answers))
            else:
                results = [await _item_result(author, answer) for author, answer in answers]
            return pb.BatchReadResponse(results=results)

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

    async def List(self, request: pb.ListRequest, context: Context) -> pb.ListResponse:
        page = await list_names(
            self._vault,
            current_caller.get(),
            request.prefix,
            request.page_size,
            request.page_token,
            deleted=request.deleted,
            turn=self._listings,  # a page of DynamoDB takes several megabytes while it is parsed
        )
        return _name_page(page)

    async def ListRevisions(self, request: pb.ListRevisionsRequest, context: Context) -> pb.ListRevisionsResponse:
        response = pb.ListRevisionsResponse()
        for one in await self._vault.list_revisions(current_caller.get(), request.key_id):
            _set(response.revisions.add(revision=one.revision, size=one.size).update_time, one.updated)
        return response

    async def WhoAmI(self, request: pb.WhoAmIRequest, context: Context) -> pb.WhoAmIResponse:
        caller = current_caller.get()
        rules = [
            pb.WhoAmIResponse.Rule(
                methods=[method for method in POLICY_METHODS if method in rule.methods], names=map(str, rule.names)
            )
            for rule in caller.ask_for_rules()
        ]
        return pb.WhoAmIResponse(
            identity=caller.identity or ANONYMOUS, tenant=caller.tenant, rules=rules, server_version=self._version
        )


async def _item_result(author: Visitor, answer: Found | VaultError) -> pb.BatchReadResponse.Result:
    """Return the result of one Read of a batch, once its outcome is recorded; what did not fit was not done."""
    try:
        if isinstance(answer, Found):
            await author.record_outcome("OK", "")
            return pb.BatchReadResponse.Result(record=_record(author.tenant, answer))
        if not isinstance(answer, BatchFull):
            await author.record_outcome(status_of(answer).name, answer.reason)
    except VaultError as unrecorded:
        answer = unrecorded
    return pb.BatchReadResponse.Result(error=error_of_item(answer))


def _name_page(page: Page) -> pb.ListResponse:
    response = pb.ListResponse(next_page_token=page.next_page_token)
    for name in page.names:
        _set(response.names.add(key_id=name.key_id).create_time, name.created)
    return response


def _record(tenant: str, found: Found) -> pb.ReadResponse:
    response = pb.ReadResponse(
        tenant=tenant,
        envelope=found.envelope or b"",
        revision=found.revision,
        deleted=found.deleted,
        not_modified=found.envelope is None,
    )
    return _dated(response, found)


def _written(response: type[_Mutated], done: Written) -> _Mutated:
    """Return the response of a mutation; the four have the same fields."""
    return _dated(response(revision=done.revision, replayed=done.replayed), done)


def _dated(response: _Response, times: Written | Found) -> _Response:
    """Set both times, field by field: a Timestamp that is made first and then copied costs twice as much."""
    _set(response.create_time, times.created)
    _set(response.update_time, times.updated)
    return response


def _set(timestamp: Timestamp, microseconds: int) -> None:
    timestamp.seconds, rest = divmod(microseconds, 1_000_000)
    timestamp.nanos = rest * 1000
