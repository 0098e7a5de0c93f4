"""A peer between a client and a real server that loses answers, lies, cuts connections and forgets them.

A gRPC server plays a script for each method; honest is what the script does not name. A relay in front of it has the
client's connections. Both listen on loopback.

The rule of this file: it notes the bytes of every envelope that it gets, forwarded or not, because an envelope that
a client sent is known to others, whether or not it was stored.
"""

import asyncio
import functools
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NoReturn

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import error_details_pb2, status_pb2

from keyvault_api import envelope as kve1
from keyvault_api.v1 import keyvault_pb2 as pb
from tests.server.backends.aws.wire import listening
from tests.support.middlebox import Middlebox
from tests.support.requests import Key, stored_revision, update
from tests.support.servers import Served, grpc_server

SERVICE = "keyvault.v1.KeyVault"
Cut = Literal["RST", "FIN"]
PLAYED = "played by the peer"
"""Message of every status that the peer makes up."""


@dataclass
class Call:
    """One request that the peer got."""

    peer: "Misbehaving"
    method: str
    request: bytes
    context: Any

    async def forward(self) -> bytes:
        """Let the real server answer, its errors with their details."""
        send: Any = self.peer.server.channel.unary_unary(f"/{SERVICE}/{self.method}")
        try:
            return bytes(await send(self.request, timeout=30))
        except grpc.aio.AioRpcError as failed:
            await self.context.abort(failed.code(), failed.details(), tuple(failed.trailing_metadata()))
        raise AssertionError


Step = Callable[[Call], Awaitable[bytes]]


async def honest(call: Call) -> bytes:
    """Forward the request and its answer."""
    return await call.forward()


def answers(
    code: grpc.StatusCode,
    reason: str = "",
    *,
    domain: str = "keyvault",
    commit: bool = False,
    retry_after: int = 0,
    **metadata: object,
) -> Step:
    """Answer with a status, of this domain if there is a reason; `commit`: after the server did what was asked."""

    async def step(call: Call) -> bytes:
        if commit:
            await call.forward()
        about = refusal(code, reason, retry_after, metadata, domain, PLAYED) if reason else b""
        await call.context.abort(code, PLAYED, (("grpc-status-details-bin", about),) if reason else ())
        raise AssertionError

    return step


def cuts(how: Cut) -> Step:
    """Cut the client's connections after the server did what was asked."""

    async def step(call: Call) -> bytes:
        await call.forward()
        call.peer.relay.cut(how)
        return await _never()

    return step


async def hangs(call: Call) -> bytes:
    """Never answer, after the server did what was asked."""
    await call.forward()
    return await _never()


async def silent(_: Call) -> bytes:
    """Never answer, and do nothing."""
    return await _never()


async def forgets(call: Call) -> bytes:
    """Lose this request and all that comes on the present connections, which stay open: a middlebox forgot the flow."""
    call.peer.relay.forget()
    return await _never()


def claims(revision: int) -> Step:
    """Forward, and put another revision into the answer."""

    async def step(call: Call) -> bytes:
        answer = getattr(pb, f"{call.method}Response").FromString(await call.forward())
        answer.revision = revision
        return bytes(answer.SerializeToString())

    return step


def replaces(fields: Mapping[str, object]) -> Step:
    """Forward, and put other fields into the answer; a number for a field of bytes is so many zero bytes."""

    async def step(call: Call) -> bytes:
        answer = getattr(pb, f"{call.method}Response").FromString(await call.forward())
        for name, value in fields.items():
            if isinstance(value, int) and isinstance(getattr(answer, name), bytes):
                setattr(answer, name, bytes(value))
            else:
                setattr(answer, name, value)
        return bytes(answer.SerializeToString())

    return step


async def comes_later(call: Call) -> bytes:
    """Forward, and add a field to the answer that only a later version has: number 1000, a varint."""
    return await call.forward() + b"\xc0\x3e\x01"


def seals(
    kind: str, revision: int, *, key: str = "key", tenant: str = "", key_id: str = "", deleted: bool = False
) -> Step:
    """Answer a Read with an envelope of this kind, under a key of the peer, for the record or for another name."""

    async def step(call: Call) -> bytes:
        sealing = replace(call.peer.keys[key], tenant=tenant or call.peer.keys[key].tenant)
        name = key_id or pb.ReadRequest.FromString(call.request).key_id
        data = {"TOMBSTONE": b"", "REKEY": bytes(32)}.get(kind, b"forged")
        answer = pb.ReadResponse(
            tenant=sealing.tenant,
            envelope=sealing.seal(name, revision, data, kve1.Kind[kind]),
            revision=revision,
            deleted=deleted,
        )
        return answer.SerializeToString()

    return step


async def overtaken(call: Call) -> bytes:
    """Let another program with the same key update the record first."""
    key_id = getattr(pb, f"{call.method}Request").FromString(call.request).key_id
    server = call.peer.server
    revision = await stored_revision(server.stub, key_id)
    await server.stub.Update(update(call.peer.keys["key"], key_id, revision + 1, b"theirs"))
    return await call.forward()


@dataclass
class Misbehaving:
    """The peer: what it got, and where it is."""

    server: Served
    relay: "Relay"
    script: dict[str, Iterator[Step]]
    keys: Mapping[str, Key] = field(default_factory=dict)
    """What it seals with: "key" is the client's."""
    calls: list[str] = field(default_factory=list)
    envelopes: list[bytes] = field(default_factory=list)

    @property
    def address(self) -> str:
        return self.relay.address

    @property
    def sealed(self) -> list[int]:
        """Revisions of the envelopes that came, once for each envelope."""
        return [kve1.parse(envelope).revision for envelope in dict.fromkeys(self.envelopes)]

    async def play(self, method: str, request: bytes, context: Any) -> bytes:
        self.calls.append(method)
        message = getattr(pb, f"{method}Request").FromString(request)
        self.envelopes += [getattr(message, name) for name in ("envelope", "authorization") if hasattr(message, name)]
        step = next(self.script.get(method, iter(())), honest)
        return await step(Call(self, method, request, context))


@asynccontextmanager
async def misbehaving(
    server: Served,
    script: Mapping[str, Iterable[Step]],
    credentials: grpc.ServerCredentials | None = None,
    keys: Mapping[str, Key] | None = None,
) -> AsyncIterator[Misbehaving]:
    """Stand between clients and this server; a script has the steps of each method's calls, in turn.

    With credentials, clients connect by TLS. The keys are for the steps that seal.
    """
    played = {method: iter(steps) for method, steps in script.items()}
    methods = _Methods()
    async with grpc_server(lambda added: added.add_generic_rpc_handlers((methods,)), credentials=credentials) as port:
        relay = Relay(port)
        methods.peer = peer = Misbehaving(server, relay, played, keys or {})
        async with listening(relay.pass_on) as own:
            relay.address, relay.port = f"127.0.0.1:{own}", own
            yield peer


class Relay(Middlebox):
    """A middlebox that also cuts the connections of its clients."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self._clients: set[asyncio.StreamWriter] = set()

    async def pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Relay one connection."""
        self._clients.add(writer)
        try:
            await super().pass_on(reader, writer)
        finally:
            self._clients.discard(writer)

    def cut(self, how: Cut) -> None:
        """End every connection of a client, by a reset or in good order."""
        for client in [each for each in self._clients if not each.transport.is_closing()]:
            if how == "RST":
                connection = client.get_extra_info("socket")
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.transport.abort()
            else:
                client.close()


class _Methods(grpc.GenericRpcHandler):
    """Every method, as bytes."""

    peer: Misbehaving

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        called: Any = handler_call_details.method
        service, _, method = called.rpartition("/")
        if service != f"/{SERVICE}":  # a client that asks why its connection failed, and is late
            return None
        return grpc.unary_unary_rpc_method_handler(functools.partial(self.peer.play, method))


async def _never() -> NoReturn:
    """Wait until the client gives up or the peer stops."""
    await asyncio.Event().wait()
    raise AssertionError


def refusal(
    code: grpc.StatusCode,
    reason: str,
    retry_after: int,
    metadata: Mapping[str, object],
    domain: str = "keyvault",
    message: str = "",
) -> bytes:
    """Return the trailer of a refusal: google.rpc.Status with an ErrorInfo."""
    about = {"request_id": "r-1"} | {name: str(value) for name, value in metadata.items()}
    details: list[Any] = [error_details_pb2.ErrorInfo(reason=reason, domain=domain, metadata=about)]
    if retry_after:
        info = error_details_pb2.RetryInfo()
        info.retry_delay.FromSeconds(retry_after)
        details.append(info)
    status = status_pb2.Status(code=code.value[0], message=message)  # libraries drop details of another code
    for detail in details:
        packed = AnyMessage()
        packed.Pack(detail)
        status.details.append(packed)
    return bytes(status.SerializeToString())
