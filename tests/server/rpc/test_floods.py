"""Floods of HTTP/2 frames that only gRPC's core holds off: each leaves the memory and the other callers alone.

Each test sends a bounded number of frames, and fails if an upgrade of grpcio stops the protection.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

from keyvault_api.v1 import keyvault_pb2 as pb
from keyvault_server.rpc.guard import SERVICE
from keyvault_server.rpc.metadata import MOST_ENTRIES
from tests.support.frames import ENHANCE_YOUR_CALM, GOAWAY, INDEXED, RST_STREAM, Rude, literal, rude
from tests.support.memory import Peak
from tests.support.refusals import failure_of
from tests.support.servers import Served, embedded

READ = f"{SERVICE}Read"
FRAMES = 20_000
GROWN = 30
"""Memory in MB that no flood may add; without a limit each adds more, or its frames do."""
SECONDS = 5.0
"""Longest time of another caller's call during a flood; it takes milliseconds."""


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Served]:
    async with embedded(tmp_path, admin_listen="127.0.0.1:0") as served:
        yield served


async def serves_others(server: Served) -> None:
    failure = await failure_of(server.stub.Read(pb.ReadRequest(key_id="a"), timeout=SECONDS))
    assert failure.reason == "RECORD_NOT_FOUND"


@asynccontextmanager
async def reading(caller: Rude) -> AsyncIterator[Counter[tuple[int, int]]]:
    """Count the frames that the server sends, by type and error code."""
    seen: Counter[tuple[int, int]] = Counter()

    async def count() -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            async for kind, _, payload in caller.frames():
                at = {RST_STREAM: 0, GOAWAY: 4}.get(kind, len(payload))
                seen[kind, int.from_bytes(payload[at : at + 4], "big")] += 1

    task = asyncio.create_task(count())
    try:
        yield seen
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def flood(server: Served, caller: Rude, send: Callable[[int], None], frames: int = FRAMES) -> None:
    """Send so many frames, or until the server closes the connection, while another caller is served."""
    with contextlib.suppress(OSError):
        for number in range(frames):
            send(number)
            if number % 100 == 0:
                await caller.sent()
            if number % (frames // 4) == 0:
                await serves_others(server)
    await serves_others(server)


@pytest.mark.slow
async def test_calls_reset_at_once_are_mostly_refused(server: Served) -> None:
    """Rapid reset (CVE-2023-44487): each reset call would make room for the next one within the limit of streams."""

    def reset(number: int) -> None:
        caller.call(2 * number + 1, READ)
        caller.reset(2 * number + 1)

    async with rude(server.address) as caller, asyncio.timeout(60), reading(caller) as seen:
        caller.begin()
        with Peak() as peak:
            await flood(server, caller, reset)
    assert peak.grown < GROWN
    assert seen[RST_STREAM, ENHANCE_YOUR_CALM] > FRAMES * 0.9 or seen[GOAWAY, ENHANCE_YOUR_CALM]


@pytest.mark.slow
async def test_settings_whose_answers_are_left_take_no_memory(server: Served) -> None:
    """When 10,000 answers wait in the server, it reads no more: 36 MB of settings are not all taken."""

    async def send() -> None:
        for _ in range(400):
            caller.settings(10_000)
            await asyncio.wait_for(caller.sent(), 2)

    async with rude(server.address) as caller, asyncio.timeout(60):
        caller.begin()
        with Peak() as peak, pytest.raises(OSError):  # TimeoutError is one
            await send()
        await serves_others(server)
        caller.abort()
    assert peak.grown < GROWN


@pytest.mark.slow
async def test_a_flood_of_pings_ends_its_connection(server: Served) -> None:
    async with rude(server.address) as caller, asyncio.timeout(60):
        caller.begin()
        with Peak() as peak:
            await flood(server, caller, lambda _: caller.ping())
        async with asyncio.timeout(5):  # later, keepalive would end it
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                async for _ in caller.frames():
                    pass
    assert peak.grown < GROWN


@pytest.mark.slow
async def test_headers_without_an_end_take_no_memory(server: Served) -> None:
    """CONTINUATION flood (CVE-2024-27316 and its like): 100 MB of headers, of a call that never begins."""
    header = literal("x-a", "y" * 1_000)
    async with rude(server.address) as caller, asyncio.timeout(60):
        caller.begin()
        caller.endless_headers(1, literal(":path", READ), first=True)
        with Peak() as peak:
            await flood(server, caller, lambda _: caller.endless_headers(1, header, first=False), 100_000)
    assert peak.grown < 50  # what was read and not yet looked at: 17 to 34


@pytest.mark.parametrize("method", [READ, "/grpc.health.v1.Health/Check", "/a.B/C"])
async def test_metadata_of_very_many_entries_cuts_its_connection(server: Served, method: str) -> None:
    """One byte stands for an entry, so gRPC's limit of bytes does not hold: 12 kB became 17 MB, several times."""
    for address in (server.address, server.admin_address):
        async with rude(address) as caller, asyncio.timeout(10):
            caller.begin()
            caller.call(1, method, b"", more=literal("x-a", "y", indexed=True) + INDEXED * MOST_ENTRIES)
            with pytest.raises((OSError, asyncio.IncompleteReadError)):
                await caller.answer(1)
    await serves_others(server)


async def test_metadata_of_many_entries_is_served(server: Served) -> None:
    """Few bytes: beyond 8 KiB gRPC refuses some, by chance."""
    async with rude(server.address) as caller, asyncio.timeout(10):
        caller.begin()
        entries = literal("x-a", "y" * 10, indexed=True) + INDEXED * (MOST_ENTRIES - 20)
        caller.call(1, READ, pb.ReadRequest(key_id="a").SerializeToString(), more=entries)
        assert b"grpc-status\x015" in await caller.answer(1), "NOT_FOUND"


@pytest.mark.medium
async def test_metadata_of_more_than_16_kib_is_refused(server: Served) -> None:
    """Up to 8 KiB it is served; in between gRPC refuses some, by chance."""
    for kibibytes, status in ((7, "NOT_FOUND"), (20, "RESOURCE_EXHAUSTED")):
        metadata = grpc.aio.Metadata(*((f"x-{number}", "y" * 1000) for number in range(kibibytes)))
        call = server.stub.Read(pb.ReadRequest(key_id="a"), metadata=metadata, timeout=30)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call
        assert refused.value.code().name == status
