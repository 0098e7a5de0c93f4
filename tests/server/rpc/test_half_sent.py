"""Calls whose message does not come: who calls is asked at the headers, and the message has a time limit."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from keyvault_api.v1 import keyvault_pb2 as pb
from keyvault_server.access.identity import Identifier
from keyvault_server.rpc.guard import SERVICE, Limits
from keyvault_server.rpc.receiving import SLOW_SECONDS
from tests.support.audit_server import AuditServer, audit_server
from tests.support.frames import rude
from tests.support.refusals import failure_of

READ = f"{SERVICE}Read"


def streaming(server: AuditServer) -> Any:
    """Begin a Read as a client does that streams its request, and send no message."""
    method: Any = server.channel.stream_unary(READ)
    return method(timeout=30)


async def test_an_unidentified_caller_is_rejected_before_its_message(tmp_path: Path) -> None:
    async with (
        audit_server(tmp_path, identifier=Identifier(certificates=True)) as server,
        rude(server.address) as caller,
        asyncio.timeout(10),
    ):
        caller.begin()
        caller.call(1, READ)
        assert await caller.answer(1)
    assert server.statuses() == ["UNAUTHENTICATED"]


@pytest.mark.slow
async def test_a_message_that_does_not_come_in_time_ends_its_call(tmp_path: Path) -> None:
    async with audit_server(tmp_path, limits=Limits(receive_seconds=0.05)) as server:
        failure = await failure_of(streaming(server))
        assert (failure.status, failure.reason) == ("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED")
        assert +server.guard.receiving.half_sent == {"late": 1}
        assert (await failure_of(server.stub.Read(pb.ReadRequest(key_id="a")))).reason == "RECORD_NOT_FOUND"


async def test_a_call_without_a_message_is_malformed(tmp_path: Path) -> None:
    async with audit_server(tmp_path) as server:
        call = streaming(server)
        await call.done_writing()
        failure = await failure_of(call)
    assert (failure.status, failure.reason) == ("INVALID_ARGUMENT", "MALFORMED_REQUEST")
    assert +server.guard.receiving.half_sent == {"missing": 1}


async def test_a_caller_that_leaves_within_its_message_is_no_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with audit_server(tmp_path) as server:
        call = streaming(server)
        async with asyncio.timeout(10):
            while not len(server.guard.receiving):
                await asyncio.sleep(0.01)
            call.cancel()
            await server.guard.wait_idle()
    assert server.statuses() == ["CANCELLED"]
    assert not caplog.records


@pytest.mark.medium
async def test_half_sent_calls_keep_nobody_from_being_served(tmp_path: Path) -> None:
    """One that has waited makes room."""
    async with audit_server(tmp_path, limits=Limits(concurrent_calls=1, receiving_calls=3)) as server:
        calls = [streaming(server) for _ in range(3)]
        async with asyncio.timeout(10):
            while len(server.guard.receiving) < 3:
                await asyncio.sleep(0.01)
        await asyncio.sleep(SLOW_SECONDS)
        assert (await failure_of(server.stub.Read(pb.ReadRequest(key_id="a")))).reason == "RECORD_NOT_FOUND"
        async with asyncio.timeout(10):
            while not any(call.done() for call in calls):
                await asyncio.sleep(0.01)
        ended, *waiting = sorted(calls, key=lambda call: not call.done())
        assert (await failure_of(ended)).reason == "RATE_LIMITED"
        assert +server.guard.receiving.half_sent == {"displaced": 1}
        assert not any(call.done() for call in waiting)
        for call in waiting:
            call.cancel()


@pytest.mark.medium
async def test_a_burst_of_calls_is_served_whatever_the_places(tmp_path: Path) -> None:
    """Their messages are there before they count as slow."""
    async with audit_server(tmp_path, limits=Limits(receiving_calls=3)) as server:
        calls = [server.stub.Read(pb.ReadRequest(key_id="a"), timeout=30) for _ in range(90)]
        assert {(await failure_of(call)).reason for call in calls} == {"RECORD_NOT_FOUND"}


async def test_calls_from_headers_to_reply_are_bounded(tmp_path: Path) -> None:
    async with audit_server(tmp_path, limits=Limits(unanswered_calls=3)) as server:
        calls = [streaming(server) for _ in range(3)]
        async with asyncio.timeout(10):
            while len(server.guard.receiving) < 3:
                await asyncio.sleep(0.01)
        assert (await failure_of(server.stub.Read(pb.ReadRequest(key_id="a")))).reason == "RATE_LIMITED"
        for call in calls:
            call.cancel()


async def test_large_requests_share_a_budget(tmp_path: Path) -> None:
    """Where callers have no identities they are one, and have all of it."""
    async with audit_server(tmp_path, limits=Limits(request_bytes=1_000)) as server:
        small = server.stub.Create(pb.CreateRequest(key_id="a", envelope=bytes(900)))
        assert (await failure_of(small)).reason == "MALFORMED_WRAPPED_KEY"
        large = server.stub.Create(pb.CreateRequest(key_id="a", envelope=bytes(1_100)))
        assert (await failure_of(large)).reason == "RATE_LIMITED"
        again = server.stub.Create(pb.CreateRequest(key_id="a", envelope=bytes(900)))
        assert (await failure_of(again)).reason == "MALFORMED_WRAPPED_KEY", "the budget is given back"
