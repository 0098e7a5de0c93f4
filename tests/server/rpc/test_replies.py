"""Replies that their callers do not take: they count, one connection may leave a few, and then it is cut."""

import asyncio
import ipaddress
import socket
from pathlib import Path

import pytest
from grpc import aio

from keyvault_api.v1 import keyvault_pb2 as pb
from keyvault_api.v1.keyvault_pb2_grpc import KeyVaultStub
from keyvault_server.core.errors import RateLimited
from keyvault_server.rpc.guard import SERVICE
from keyvault_server.rpc.replies import ALL_CONNECTIONS, PER_CONNECTION, Replies
from keyvault_server.rpc.sockets import address_of, cut
from tests.support.audit_server import AuditServer, audit_server
from tests.support.frames import Rude, rude
from tests.support.processes import server_process
from tests.support.requests import create, mint

READ = f"{SERVICE}Read"
LARGE = 380_000


async def large_record(server: AuditServer) -> bytes:
    """Create one, and return the request that reads it."""
    await server.stub.Create(create(await mint(server.stub, "a/"), "a/large", bytes(LARGE)))
    return pb.ReadRequest(key_id="a/large").SerializeToString()


async def read_without_taking(caller: Rude, request: bytes, times: int) -> None:
    caller.begin(window=0)
    for number in range(times):
        caller.call(2 * number + 1, READ, request)


async def until(condition: object) -> None:
    assert callable(condition)
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_reply_counts_until_it_was_taken(tmp_path: Path) -> None:
    async with audit_server(tmp_path) as server, rude(server.address) as caller:
        request = await large_record(server)
        await read_without_taking(caller, request, 3)
        await until(lambda: server.guard.replies.size > 3 * LARGE)
        assert await server.stub.Read(pb.ReadRequest.FromString(request)), "others are served"
        await until(lambda: server.guard.replies.size < 4 * LARGE)
        assert server.guard.replies.size > 3 * LARGE
    await until(lambda: server.guard.replies.size == 0)


@pytest.mark.process
async def test_a_caller_that_leaves_its_replies_is_no_error_in_the_log(tmp_path: Path) -> None:
    with server_process(tmp_path / "data") as server:
        async with aio.insecure_channel(server.address) as channel:
            stub = KeyVaultStub(channel)
            await stub.Create(create(await mint(stub, "a/"), "a/large", bytes(LARGE)))
        request = pb.ReadRequest(key_id="a/large").SerializeToString()
        for ended in (1, 2, 3):
            async with rude(server.address) as caller:
                await read_without_taking(caller, request, 3)
                await until(lambda ended=ended: server.log.read_text().count('"call": "Read"') == 3 * ended)
        server.stop()
        assert "ERROR" not in server.log.read_text()


@pytest.mark.medium
async def test_a_connection_that_takes_nothing_is_rate_limited(tmp_path: Path) -> None:
    async with audit_server(tmp_path) as server, rude(server.address) as caller:
        request = await large_record(server)
        await read_without_taking(caller, request, 40)
        await until(lambda: server.statuses().count("RESOURCE_EXHAUSTED") > 10)
        assert server.guard.replies.size <= PER_CONNECTION
        assert await server.stub.Read(pb.ReadRequest.FromString(request)), "others are served"


async def test_a_cut_connection_frees_what_it_left(tmp_path: Path) -> None:
    async with audit_server(tmp_path) as server, rude(server.address) as caller:
        request = await large_record(server)
        await read_without_taking(caller, request, 3)
        await until(lambda: server.guard.replies.size > 3 * LARGE)
        assert cut(f"ipv4:{caller.address[0]}:{caller.address[1]}")
        await until(lambda: server.guard.replies.size == 0)
        await asyncio.wait_for(server.guard.wait_idle(), 10)
        assert await server.stub.Read(pb.ReadRequest.FromString(request)), "others are served"


class Cutter:
    """Remembers which connections were to be cut."""

    def __init__(self) -> None:
        self.peers: list[str] = []

    def __call__(self, peer: str) -> bool:
        """Cut nothing."""
        self.peers.append(peer)
        return True


async def test_the_connection_that_leaves_most_is_cut_first() -> None:
    cutter = Cutter()
    replies = Replies(cutter)
    half = PER_CONNECTION // 2
    left = [replies.send(f"caller {number}", half) for number in range(ALL_CONNECTIONS // half)]
    left.append(replies.send("caller 3", half))
    for taken in left:
        taken(None)
    assert cutter.peers == ["caller 3"]
    assert replies.cuts.total() == 1


@pytest.mark.slow
async def test_a_connection_that_takes_nothing_for_long_is_cut() -> None:
    cutter = Cutter()
    replies = Replies(cutter, seconds=0.1)
    idle = replies.send("idle", 10)
    taken = replies.send("busy", 10)
    taken(None)
    await until(lambda: cutter.peers)
    idle(None)
    assert cutter.peers == ["idle"]


async def test_a_taken_reply_counts_no_more() -> None:
    replies = Replies(Cutter())
    taken = replies.send("a", PER_CONNECTION)
    with pytest.raises(RateLimited):
        replies.check("a")
    replies.check("b")
    taken(None)
    replies.check("a")
    assert replies.size == 0


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:127.0.0.1:50", ("127.0.0.1", 50)),
        ("ipv6:%5B::1%5D:50", ("::1", 50)),
        ("ipv6:[::ffff:127.0.0.1]:50", ("127.0.0.1", 50)),
        ("ipv6:%5Bfe80::1%25eth0%5D:50", ("fe80::1", 50)),
        ("unix:", None),
        ("unix:/a:50", None),
    ],
)
def test_a_peer_is_read_as_grpc_writes_it(peer: str, address: tuple[str, int] | None) -> None:
    assert address_of(peer) == address
    assert address is None or ipaddress.ip_address(address[0])


def test_only_the_connection_of_the_peer_is_cut() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as one, socket.create_connection(("127.0.0.1", port)) as two:
            accepted = [listener.accept()[0] for _ in range(2)]
            assert cut(f"ipv4:127.0.0.1:{one.getsockname()[1]}")
            assert not cut("ipv4:127.0.0.1:1")
            one.settimeout(5)
            assert one.recv(1) == b""
            two.setblocking(False)
            with pytest.raises(BlockingIOError):
                two.recv(1)
            for connection in accepted:
                connection.close()
