"""Compressed messages: small ones are served, and one that is large without its compression takes no memory."""

import asyncio
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from keyvault_api.v1 import keyvault_pb2 as pb
from keyvault_server.rpc.guard import SERVICE
from tests.support.audit_server import AuditServer, audit_server
from tests.support.frames import rude
from tests.support.memory import Peak
from tests.support.refusals import failure_of

READ = f"{SERVICE}Read"
MEBIBYTE = bytes(1024 * 1024)
FORMATS = {"gzip": 31, "deflate": 15}
"""What zlib calls each of gRPC's encodings (window bits)."""


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[AuditServer]:
    async with audit_server(tmp_path) as served:
        yield served


def bomb(encoding: str, mebibytes: int) -> bytes:
    """Return zeros, compressed to a thousandth: all of it fits into what a client may send unasked."""
    packer = zlib.compressobj(9, zlib.DEFLATED, FORMATS[encoding])
    return b"".join([*(packer.compress(MEBIBYTE) for _ in range(mebibytes)), packer.flush()])


@pytest.mark.parametrize("encoding", [grpc.Compression.Gzip, grpc.Compression.Deflate])
async def test_a_compressed_request_is_served(server: AuditServer, encoding: grpc.Compression) -> None:
    method: Any = server.channel.unary_unary(READ, request_serializer=pb.ReadRequest.SerializeToString)
    failure = await failure_of(method(pb.ReadRequest(key_id="a" * 200), compression=encoding, timeout=30))
    assert failure.reason == "RECORD_NOT_FOUND"


@pytest.mark.slow
@pytest.mark.parametrize("encoding", FORMATS)
async def test_a_compression_bomb_takes_no_memory(server: AuditServer, encoding: str) -> None:
    """61 kB become 60 MB, before anything about the caller is known."""
    message = bomb(encoding, 60)
    assert len(message) < 65_000
    async with rude(server.address) as caller, asyncio.timeout(20):
        caller.begin()
        with Peak() as peak:
            caller.call(1, READ, message, encoding=encoding)
            answer = await caller.answer(1)
        while not server.guard.receiving.half_sent.total():
            await asyncio.sleep(0.01)
    assert b"grpc-status\x018" in answer, "RESOURCE_EXHAUSTED"
    assert peak.grown < 20, "MB"
    assert +server.guard.receiving.half_sent == {"missing": 1}


@pytest.mark.slow
@pytest.mark.parametrize("encoding", FORMATS)
async def test_garbage_that_is_said_to_be_compressed_is_refused(server: AuditServer, encoding: str) -> None:
    async with rude(server.address) as caller, asyncio.timeout(20):
        caller.begin()
        caller.call(1, READ, b"\xff" * 100, encoding=encoding)
        assert b"grpc-status\x010" not in await caller.answer(1)
    assert (await failure_of(server.stub.Read(pb.ReadRequest(key_id="a"), timeout=30))).reason == "RECORD_NOT_FOUND"
