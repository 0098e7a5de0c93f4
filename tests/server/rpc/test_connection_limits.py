"""More connections than the server may have: which are cut, and what the server keeps for itself."""

import asyncio
import contextlib
import logging
import resource
import socket
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from keyvault_api.v1 import keyvault_pb2 as pb
from keyvault_api.v1.keyvault_pb2_grpc import KeyVaultStub
from keyvault_server.operations.lifecycle import serving
from keyvault_server.operations.open_files import RESERVE, room_for_connections
from keyvault_server.operations.settings import Settings
from keyvault_server.rpc.connections import MaxConnections, OpenConnections
from keyvault_server.rpc.guard import SERVICE
from keyvault_server.rpc.metrics import Metrics
from keyvault_server.rpc.sockets import Connections
from tests.support.certificates import replace
from tests.support.fakes import FakeKeyService, FakeRecordStore
from tests.support.processes import BIN
from tests.support.production_server import policy, production_server
from tests.support.refusals import failure_of
from tests.support.repository import DOCS
from tests.support.requests import create, mint
from tests.support.servers import embedded


class Port:
    """A listener with clients, all in this process: the accepted connections are its own."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=100)
        self._open: list[socket.socket] = [self._listener]
        self.number: int = self._listener.getsockname()[1]

    def connect(self, host: str = "127.0.0.1") -> socket.socket:
        """Return the client's end of a new connection from this address."""
        client = socket.create_connection(("127.0.0.1", self.number), source_address=(host, 0))
        accepted, _ = self._listener.accept()
        self._open += [client, accepted]
        client.setblocking(False)
        return client

    def close(self) -> None:
        """Close both ends of all."""
        for one in self._open:
            one.close()


@pytest.fixture
def port() -> Iterator[Port]:
    made = Port()
    with contextlib.closing(made):
        yield made


@pytest.fixture
def cuts() -> Counter[str]:
    return Counter()


def connections(cuts: Counter[str], *callers: socket.socket) -> OpenConnections:
    """Return what counts the connections, while these clients have a call in flight."""
    return OpenConnections(lambda: [f"ipv4:127.0.0.1:{one.getsockname()[1]}" for one in callers], cuts)


def is_cut(client: socket.socket) -> bool:
    try:
        return client.recv(1) == b""
    except BlockingIOError:
        return False


def descriptors(process: int | str) -> int:
    """Return how many descriptors a process has open."""
    return sum(1 for _ in Path(f"/proc/{process}/fd").iterdir())


def seen(one: OpenConnections, port: Port, clients: Iterable[str | None], most: MaxConnections) -> list[socket.socket]:
    """Open these clients, one between two looks, and let all be looked at under the limit."""
    opened = []
    for host in clients:
        opened.append(port.connect(host or "127.0.0.1"))
        one.look(MaxConnections({port.number: 1_000}))
    one.look(most)
    return opened


def test_the_newest_connection_beyond_the_limit_is_cut(port: Port, cuts: Counter[str]) -> None:
    watched = connections(cuts)
    opened = seen(watched, port, [None] * 5, MaxConnections({port.number: 3}))
    assert [is_cut(one) for one in opened] == [False, False, False, True, True]
    assert (watched.number, cuts) == (3, {"all": 2, "address": 0})


def test_a_connection_with_a_call_stays_before_an_idle_one(port: Port, cuts: Counter[str]) -> None:
    idle = port.connect()
    calling = port.connect()
    connections(cuts, calling).look(MaxConnections({port.number: 1}))
    assert (is_cut(idle), is_cut(calling)) == (True, False)


def test_calls_in_flight_lift_no_limit(port: Port, cuts: Counter[str]) -> None:
    calling = [port.connect() for _ in range(3)]
    connections(cuts, *calling).look(MaxConnections({port.number: 2}))
    assert sum(map(is_cut, calling)) == 1


def test_one_address_cannot_take_the_place_of_another(port: Port, cuts: Counter[str]) -> None:
    hosts = ["127.0.0.2"] * 4 + [None]
    opened = seen(connections(cuts), port, hosts, MaxConnections({port.number: 4}, of_address=2))
    assert [is_cut(one) for one in opened] == [False, False, True, True, False]
    assert cuts == {"all": 0, "address": 2}


def test_within_the_limits_nothing_is_cut(port: Port, cuts: Counter[str]) -> None:
    watched = connections(cuts)
    opened = seen(watched, port, [None] * 3, MaxConnections({port.number: 3}, of_address=3))
    assert not any(map(is_cut, opened))
    assert watched.number == 3


def test_connections_of_other_ports_are_left_alone(port: Port, cuts: Counter[str]) -> None:
    other = port.connect()
    watched = connections(cuts)
    watched.look(MaxConnections({1: 0}, of_address=1))
    assert not is_cut(other)
    assert watched.number == 0


def test_a_closed_connection_leaves_its_place(port: Port, cuts: Counter[str]) -> None:
    """Its descriptors are those of the next one, which is looked at again."""
    watched = connections(cuts)
    port.connect()
    watched.look(MaxConnections({port.number: 1}))
    port.close()
    with contextlib.closing(Port()) as later:
        later.connect()
        watched.look(MaxConnections({port.number: 1, later.number: 1}))
    assert (watched.number, cuts.total()) == (1, 0)


def test_cuts_are_logged_once_in_ten_seconds(port: Port, cuts: Counter[str], caplog: pytest.LogCaptureFixture) -> None:
    watched = connections(cuts)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            port.connect()
            watched.look(MaxConnections({port.number: 0}))
    (line,) = caplog.records
    assert line.__dict__["cut"] == {"all": 1}


def test_a_look_leaves_no_descriptor_open(port: Port, tmp_path: Path) -> None:
    """A file that is not a socket among them: its duplicate was left open."""
    port.connect()
    with (tmp_path / "file").open("wb"):
        before = descriptors("self")
        found = Connections().look()
        assert descriptors("self") == before
    assert any(one.port == port.number for one in found)


def test_the_room_for_connections_leaves_a_reserve() -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    room = room_for_connections(Settings())
    assert room.service + room.admin == min(soft, 2**31) - RESERVE
    aws = room_for_connections(Settings(backend="aws", aws_connections=10))
    assert aws.service + aws.admin == room.service + room.admin - 20


async def test_what_is_cut_and_half_sent_is_shown() -> None:
    metrics = Metrics()
    settings = Settings(listen="127.0.0.1:0", access_log=False)
    async with serving(settings, FakeKeyService(), FakeRecordStore(), metrics=metrics):
        shown = {metric.name: metric for metric in metrics.collect()}
    reasons = {
        name: {sample.labels["reason"] for sample in shown[f"keyvault_{name}"].samples}
        for name in ("connections_cut", "half_sent_calls")
    }
    assert reasons == {
        "connections_cut": {"metadata", "all", "address", "replies_not_taken", "most_replies", "refusals"},
        "half_sent_calls": {"late", "displaced", "missing"},
    }
    page = (DOCS / "settings.md").read_text()
    assert {name for name in shown if f"`{name}" not in page} == set()
    missing = [reason for named in reasons.values() for reason in named if f"`{reason}`" not in page]
    assert not missing


@contextlib.asynccontextmanager
async def flooded(address: str, at_once: int = 200) -> AsyncIterator[None]:
    """Keep so many connections that send nothing, while the body runs: each that ends is opened again."""
    host, _, port = address.rpartition(":")

    async def hold() -> None:
        while True:
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection(host, int(port))
                try:
                    await reader.read()
                finally:
                    writer.close()
            await asyncio.sleep(0.05)

    held = [asyncio.create_task(hold()) for _ in range(at_once)]
    try:
        await asyncio.sleep(1)
        yield
    finally:
        for one in held:
            one.cancel()
        await asyncio.gather(*held, return_exceptions=True)


@pytest.mark.process
@pytest.mark.slow
async def test_a_flood_of_connections_leaves_the_server_its_files(tmp_path: Path) -> None:
    """With 150 of them the store and the audit log are written, and a changed policy is in force within seconds."""
    program = ("bash", "-c", 'ulimit -n 150; exec "$0" "$@"', BIN / "keyvault-server")
    with production_server(tmp_path, program) as made:
        async with made.channel() as channel, asyncio.timeout(60):
            stub = KeyVaultStub(channel)
            key = await mint(stub, "a/")
            async with flooded(made.server.address):
                await stub.Create(create(key, "a/record"))
                assert descriptors(made.server.process.pid) <= 150 - RESERVE // 4
                replace(tmp_path / "policy.toml", policy().replace('"*"', '"Read"', 1).encode())
                reason = ""
                while reason != "POLICY_DENIED":
                    call = stub.Create(create(key, "a/other"))
                    with contextlib.suppress(AssertionError):
                        reason = (await failure_of(call)).reason
                    await asyncio.sleep(0.1)
                assert (await stub.Read(pb.ReadRequest(key_id="a/record"))).revision == 1
        log = made.server.log.read_text()
    assert "connections cut" in log
    assert "KEYVAULT_CONNECTIONS is lowered" in log
    assert "Too many open files" not in log


@pytest.mark.slow
async def test_a_caller_goes_on_while_idle_connections_are_cut(tmp_path: Path) -> None:
    """Three are let; the caller has a call in flight, whose message does not come."""
    async with embedded(tmp_path, connections=3) as server:
        host, _, port = server.address.rpartition(":")
        idle = [await asyncio.open_connection(host, int(port)) for _ in range(3)]
        method: Any = server.channel.stream_unary(f"{SERVICE}Read")
        call = method(timeout=30)
        async with asyncio.timeout(10):
            await asyncio.wait(
                [asyncio.create_task(reader.read()) for reader, _ in idle], return_when=asyncio.FIRST_COMPLETED
            )
        assert not call.done()
        await call.write(pb.ReadRequest(key_id="a").SerializeToString())
        await call.done_writing()
        assert (await failure_of(call)).reason == "RECORD_NOT_FOUND"
        for _, writer in idle:
            writer.close()
