"""The calls that the benchmarks make, each as request bytes that were made before the clock runs.

The rule of this file: every kind of call has one expected status; any other answer is not counted as a call.
"""

import asyncio
import os
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import grpc

from benchmarks.generator import closed_loop
from benchmarks.http2 import Call
from benchmarks.servers import DENIED, KNOWN, LIMITED, UNIDENTIFIED, Server
from keyvault_api import envelope
from keyvault_api.names import BATCH_READ, MAX_BATCH_ITEMS
from keyvault_api.v1 import keyvault_pb2 as pb

KIB = 1024
IN_FLIGHT = 64
SCOPE = "benchmark/"
NAMES = 1_000
"""Records that Reads are spread over."""
_STORED_AT_ONCE = 8
"""Creates in flight before the clock runs: few enough that AWS calls on a busy machine meet no time limit."""
_CODE = {code: code.value[0] for code in grpc.StatusCode}
_OK = _CODE[grpc.StatusCode.OK]


@dataclass(frozen=True)
class Kind:
    """A kind of call: its RPC, who makes it, and how it is answered."""

    method: str
    caller: str = KNOWN
    expected: int = _OK
    throttled: bool = False
    """Whether the server lets the answers wait: all calls are sent at once, and only their CPU is a figure."""


KINDS = {
    "Read": Kind("Read"),
    BATCH_READ: Kind(BATCH_READ),
    "GenerateKey": Kind("GenerateKey"),
    "Create": Kind("Create"),
    "Update": Kind("Update"),
    "Delete": Kind("Delete"),
    "RateLimited": Kind("Read", LIMITED, _CODE[grpc.StatusCode.RESOURCE_EXHAUSTED]),
    "PolicyDenied": Kind("Read", DENIED, _CODE[grpc.StatusCode.PERMISSION_DENIED]),
    "Unauthenticated": Kind("Read", UNIDENTIFIED, _CODE[grpc.StatusCode.UNAUTHENTICATED], throttled=True),
}
REFUSED = ("RateLimited", "PolicyDenied", "Unauthenticated")
"""The kinds that only a server with callers knows: the production shape."""


class Requests:
    """Request bytes for one server: of records that exist, and of new ones."""

    def __init__(self, server: Server, size: int = KIB) -> None:
        """`size` is that of a value, in bytes."""
        self._server = server
        self._value = os.urandom(size)
        self._key = pb.GenerateKeyResponse()
        self._count = 0
        self._revisions: dict[int, int] = {}
        self._names: list[str] = []
        self._reads: list[bytes] = []
        self._made: dict[str, deque[bytes]] = {"Create": deque(), "Delete": deque()}
        self._order = random.Random(1)

    async def prepare(self, names: int = NAMES) -> None:
        """Get a data key, and create the records that are read."""
        self.set_key(pb.GenerateKeyResponse.FromString(await one_call(self._server, "GenerateKey", self._scope())))
        self._names = [f"{SCOPE}read/{number}" for number in range(names)]
        ready = deque(self._create(name) for name in self._names)
        await self._store(ready, names)
        self._reads = [pb.ReadRequest(key_id=name).SerializeToString() for name in self._names]

    def set_key(self, key: pb.GenerateKeyResponse) -> None:
        """Seal what follows under this data key."""
        self._key = key

    async def make(self, kind: str, count: int) -> None:
        """Make so many requests in advance; a Delete needs a record each, which is created now."""
        made = self._made.get(kind, deque())
        if kind == "Create":
            made.extend(self._create(self._name()) for _ in range(count - len(made)))
        elif kind == "Delete":
            names = [self._name() for _ in range(count - len(made))]
            await self._store(deque(map(self._create, names)), len(names))
            made.extend(self._change(pb.DeleteRequest, name, 2, None) for name in names)
        elif kind == "Update":
            slots = [slot for slot in range(IN_FLIGHT) if slot not in self._revisions]
            await self._store(deque(self._create(f"{SCOPE}update/{slot}") for slot in slots), len(slots))
            self._revisions |= dict.fromkeys(slots, 1)

    def source(self, kind: str) -> Callable[[int], bytes]:
        """Return what makes the next request of a slot."""
        method = KINDS[kind].method
        if method == "GenerateKey":
            scope = self._scope()
            return lambda _: scope
        if method == "Create":
            made = self._made[method]
            return lambda _: made.popleft() if made else self._create(self._name())
        if method == "Update":
            return self._update
        if method == "Delete":
            deletes = self._made[method]
            return lambda _: deletes.popleft() if deletes else b""
        if method == BATCH_READ:
            batches = self._batches()
            return lambda _: self._order.choice(batches)
        return lambda _: self._order.choice(self._reads)

    async def answer(self, kind: str) -> bytes:
        """Return the server's reply to one call."""
        await self.make(kind, 1)
        return await one_call(self._server, KINDS[kind].method, self.source(kind)(0))

    def _batches(self) -> list[bytes]:
        """Return requests that together ask for all records, as many in each as one may ask for."""
        items = [pb.BatchReadRequest.Item(key_id=name) for name in self._names]
        starts = range(0, len(items) - MAX_BATCH_ITEMS + 1, MAX_BATCH_ITEMS)
        return [pb.BatchReadRequest(items=items[at : at + MAX_BATCH_ITEMS]).SerializeToString() for at in starts]

    async def _store(self, ready: deque[bytes], count: int) -> None:
        if not count:
            return
        link = await self._server.connect("Create")
        stored = await closed_loop(
            [link],
            lambda _: ready.popleft(),
            in_flight=min(_STORED_AT_ONCE, count),
            seconds=600,
            cpu=lambda: 0.0,
            calls=count,
        )
        link.close()
        assert stored.good == count, f"Creates were answered {dict(stored.statuses)}"

    def _update(self, slot: int) -> bytes:
        """Return the next revision of the slot's own record; a refused one would leave the slot behind."""
        self._revisions[slot] += 1
        return self._change(pb.UpdateRequest, f"{SCOPE}update/{slot}", self._revisions[slot], self._value)

    def _create(self, name: str) -> bytes:
        return self._change(pb.CreateRequest, name, 1, self._value)

    def _change(self, request: "type[_Change]", name: str, revision: int, value: bytes | None) -> bytes:
        key, tenant = self._key.plaintext_key, self._key.tenant
        kind = envelope.Kind.DATA if value is not None else envelope.Kind.TOMBSTONE
        sealed = envelope.seal(key, tenant, name, revision, value or b"", kind)
        return request(key_id=name, wrapped_key=self._key.wrapped_key, envelope=sealed).SerializeToString()

    def _name(self) -> str:
        self._count += 1
        return f"{SCOPE}new/{self._count}"

    @staticmethod
    def _scope() -> bytes:
        return pb.GenerateKeyRequest(scope=SCOPE).SerializeToString()


async def one_call(server: Server, method: str, request: bytes) -> bytes:
    """Make one call; return its reply. Raises RuntimeError for any status but OK."""
    link, ended = await server.connect(method), asyncio.get_running_loop().create_future()
    link.call(request, ended.set_result, keep=True)
    call: Call = await ended
    link.close()
    if call.status != _OK or call.message is None:
        raise RuntimeError(f"{method} was answered with status {call.status}")
    return bytes(call.message[5:])  # behind the length of the one message


_Change = pb.CreateRequest | pb.UpdateRequest | pb.DeleteRequest
