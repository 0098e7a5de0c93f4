"""Each fault on the way to AWS, at each operation, under each RPC of a real server: what is answered, and what is true.

The rule of this file: a cell shows the status and the seconds that were seen, and raises if what is stored afterwards,
or what a retry is answered, is not what that status allows. The status itself is for the caller to judge: `allowed`.
"""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc

from keyvault_api.v1 import keyvault_pb2 as pb
from tests.server.backends.aws.fault_proxy import FAULTS, Fault
from tests.server.backends.aws.site import UNWRAPPABLE, Site, status_of
from tests.support.requests import Key, create, delete, mint, rotate, update

SCOPE = "prod/"
TOGETHER = {"GetItem": ("GetItem", "BatchGetItem")}
"""What calls at the same time may use in place of the operation that each uses alone."""
UNKNOWN = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED"})
WRITE = "PutItem"
_PATIENCE = 60.0


@dataclass(frozen=True)
class Call:
    """One RPC that can be sent any number of times."""

    method: str
    send: Callable[[float], Awaitable[Any]]
    """Takes the deadline in seconds."""
    key_id: str = ""
    before: int = 0
    """Stored revision before the call."""
    after: int = 0
    """Stored revision once the call is done; 0 if it changes nothing."""


@dataclass(frozen=True)
class Seen:
    """What became of one call."""

    method: str
    operation: str
    status: str
    seconds: float


@dataclass(frozen=True)
class Keys:
    """Data keys that the calls are about."""

    current: Key
    new: Key
    unwrappable: Key


Prepare: TypeAlias = Callable[[Site, Keys, str], Awaitable[Call]]


async def keys_of(site: Site) -> Keys:
    """Mint the data keys."""
    return Keys(await mint(site.stub, SCOPE), await mint(site.stub, SCOPE), await mint(site.stub, UNWRAPPABLE))


def _call(method: str, rpc: Any, request: Any, key_id: str = "", before: int = 0, after: int = 0) -> Call:
    return Call(method, lambda deadline: rpc(request, timeout=deadline), key_id, before, after)


async def _generate(site: Site, keys: Keys, key_id: str) -> Call:
    return _call("GenerateKey", site.stub.GenerateKey, pb.GenerateKeyRequest(scope=key_id))


async def _create(site: Site, keys: Keys, key_id: str) -> Call:
    return _call("Create", site.stub.Create, create(keys.current, key_id), key_id, 0, 1)


async def _read(site: Site, keys: Keys, key_id: str) -> Call:
    await site.stub.Create(create(keys.current, key_id))
    return _call("Read", site.stub.Read, pb.ReadRequest(key_id=key_id))


async def _update(site: Site, keys: Keys, key_id: str) -> Call:
    await site.stub.Create(create(keys.current, key_id))
    return _call("Update", site.stub.Update, update(keys.current, key_id, 2), key_id, 1, 2)


async def _delete(site: Site, keys: Keys, key_id: str) -> Call:
    await site.stub.Create(create(keys.current, key_id))
    return _call("Delete", site.stub.Delete, delete(keys.current, key_id, 2), key_id, 1, 2)


async def _rotate(site: Site, keys: Keys, key_id: str) -> Call:
    await site.stub.Create(create(keys.current, key_id))
    return _call("RotateKey", site.stub.RotateKey, rotate(keys.current, keys.new, key_id, 2), key_id, 1, 2)


async def _rewrap(site: Site, keys: Keys, key_id: str) -> Call:
    return _call("RewrapKey", site.stub.RewrapKey, pb.RewrapKeyRequest(wrapped_key=keys.current.wrapped))


async def _unwrap(site: Site, keys: Keys, key_id: str) -> Call:
    return _call("UnwrapKey", site.stub.UnwrapKey, pb.UnwrapKeyRequest(wrapped_key=keys.unwrappable.wrapped))


async def _list(site: Site, keys: Keys, key_id: str) -> Call:
    return _call("List", site.stub.List, pb.ListRequest(prefix=SCOPE))


_MUTATION = ("GetItem", "Decrypt", WRITE)
RPCS: dict[str, tuple[Prepare, tuple[str, ...]]] = {
    "GenerateKey": (_generate, ("GenerateDataKey",)),
    "Create": (_create, _MUTATION),
    "Read": (_read, ("GetItem",)),
    "Update": (_update, _MUTATION),
    "Delete": (_delete, _MUTATION),
    "RotateKey": (_rotate, _MUTATION),
    "RewrapKey": (_rewrap, ("ReEncrypt",)),
    "UnwrapKey": (_unwrap, ("Decrypt",)),
    "List": (_list, ("Query",)),
}
"""Each RPC, and the operations of AWS that it needs."""
OPERATIONS = tuple(dict.fromkeys(operation for _, operations in RPCS.values() for operation in operations))


def allowed(fault: Fault, operation: str, *, once: bool) -> frozenset[str]:
    """Return the statuses that a patient caller may see: one fault is survived where a retry is safe."""
    if fault.answer is None or (once and operation != WRITE):
        return frozenset({"OK"})
    if fault == FAULTS["throttling"]:
        return frozenset({"RESOURCE_EXHAUSTED"})
    if operation == WRITE and fault.writes_are_unknown:
        return frozenset({"OK"})  # the server looks at the record and finds it done
    return UNKNOWN


async def hit_once(site: Site, fault: Fault, deadline: float) -> list[Seen]:
    """Call each RPC once for each of its operations, with one request to that operation hit."""
    keys, seen = await keys_of(site), []
    for prepare, operations in RPCS.values():
        for operation in operations:
            call = await prepare(site, keys, _name())
            hits = site.hits
            site.break_with(fault, operation, number=1)
            seen.append(await _ask(call, operation, deadline))
            site.heal()
            assert site.hits == hits + 1, seen[-1]
            await site.recovered()
            await _settle(site, call, seen[-1])
    return seen


async def hit_always(site: Site, fault: Fault, deadline: float) -> list[Seen]:
    """For each operation, call all RPCs that need it at the same time, with every request to it hit."""
    keys, all_seen = await keys_of(site), []
    for operation in OPERATIONS:
        calls = [await prepare(site, keys, _name()) for prepare, needed in RPCS.values() if operation in needed]
        for name in TOGETHER.get(operation, (operation,)):
            site.break_with(fault, name)
        seen = await asyncio.gather(*(_ask(call, operation, deadline) for call in calls))
        site.heal()
        await site.recovered()
        for call, one in zip(calls, seen, strict=True):
            await _settle(site, call, one)
        all_seen += seen
    return all_seen


async def _ask(call: Call, operation: str, deadline: float) -> Seen:
    began = time.monotonic()
    status = await status_of(call.send(deadline))
    return Seen(call.method, operation, status, time.monotonic() - began)


async def _settle(site: Site, call: Call, seen: Seen) -> None:
    """Check, without the fault, that the record is in one of two states and that the same bytes take effect once."""
    if not call.after:
        await call.send(_PATIENCE)
        return
    stored = await _stored_revision(site, call.key_id)
    assert stored in (call.before, call.after), (seen, stored)
    if seen.status not in UNKNOWN:
        assert (stored == call.after) is (seen.status == "OK"), (seen, stored)
    first, again = await call.send(_PATIENCE), await call.send(_PATIENCE)
    assert first.revision == again.revision == call.after, (seen, stored)
    assert again.replayed, seen
    if stored == call.after or seen.status not in UNKNOWN:  # else the write may have come late, after the look
        assert first.replayed is (stored == call.after), (seen, stored)
    assert await _stored_revision(site, call.key_id) == call.after, seen


async def _stored_revision(site: Site, key_id: str) -> int:
    try:
        read = await site.stub.Read(pb.ReadRequest(key_id=key_id, include_deleted=True), timeout=_PATIENCE)
    except grpc.aio.AioRpcError as failed:
        if failed.code() is not grpc.StatusCode.NOT_FOUND:
            raise
        return 0
    return read.revision


def _name() -> str:
    return SCOPE + os.urandom(8).hex()
