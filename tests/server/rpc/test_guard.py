"""What the guard says of calls: how long they took, and that their callers left."""

import asyncio
import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from keyvault_api.v1 import keyvault_pb2 as pb
from keyvault_server.access.identity import Identifier
from keyvault_server.operations.settings import Settings
from keyvault_server.rpc.access_log import AccessLog
from keyvault_server.rpc.gatekeeper import Gatekeeper
from keyvault_server.rpc.guard import Limits
from tests.support.audit_server import AuditServer, audit_server
from tests.support.refusals import failure_of
from tests.support.requests import create, mint

READ = pb.ReadRequest(key_id="a/b")


class Barrier:
    """A call that stands still in the store until the test lets it go."""

    def __init__(self, server: AuditServer, method: str) -> None:
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()
        server.records.before(method, self._wait)

    async def _wait(self) -> None:
        self.reached.set()
        await self.opened.wait()


async def until(server: AuditServer, statuses: list[str]) -> None:
    while server.statuses() != statuses:
        await asyncio.sleep(0.01)


async def test_a_caller_that_hangs_up_leaves_an_outcome(tmp_path: Path) -> None:
    async with asyncio.timeout(20), audit_server(tmp_path) as server:
        barrier = Barrier(server, "get")
        call = server.stub.Read(READ)
        await barrier.reached.wait()
        call.cancel()
        await until(server, ["CANCELLED"])
        while server.gate.hung_up:  # what is kept for it is not kept for long
            await asyncio.sleep(0.01)
    server.trail.verified()


async def test_a_mutation_whose_caller_hangs_up_has_its_intent(tmp_path: Path) -> None:
    """Its outcome refers to the intent, so that a reader finds the change that may have been stored."""
    async with asyncio.timeout(20), audit_server(tmp_path) as server:
        key = await mint(server.stub, "a/")
        barrier = Barrier(server, "put_if")
        call = server.stub.Create(create(key, "a/b"))
        await barrier.reached.wait()
        call.cancel()
        await until(server, ["OK", "CANCELLED"])
    (intent,) = (line for line in server.trail.lines() if line["phase"] == "intent")
    outcome = [line for line in server.trail.lines() if line["phase"] == "outcome"][-1]
    assert (outcome["intent"], outcome["revision"], outcome["method"]) == (intent["seq"], 1, "Create")


@pytest.mark.medium
async def test_the_access_log_says_how_long_a_call_took(tmp_path: Path) -> None:
    log = StringIO()
    async with asyncio.timeout(20), audit_server(tmp_path, access_log=AccessLog(log)) as server:
        barrier = Barrier(server, "get")
        began = asyncio.get_running_loop().time()
        call = asyncio.ensure_future(server.stub.Read(READ))
        await barrier.reached.wait()
        await asyncio.sleep(0.05)
        barrier.opened.set()
        await asyncio.wait([call])
        took = asyncio.get_running_loop().time() - began
        while not log.getvalue():
            await asyncio.sleep(0.01)
    line: dict[str, Any] = json.loads(log.getvalue())
    assert 50 <= line["ms"] <= took * 1000


@pytest.mark.parametrize(
    ("sent", "logged"), [("a/b", "a/b"), ("a/", "a/"), ("pass word", ""), ("x" * 256, ""), ("", "")]
)
async def test_the_access_log_has_valid_names_only(tmp_path: Path, sent: str, logged: str) -> None:
    """What is not a name may be a secret in the wrong field."""
    log = StringIO()
    async with asyncio.timeout(20), audit_server(tmp_path, access_log=AccessLog(log)) as server:
        await failure_of(server.stub.Read(pb.ReadRequest(key_id=sent)))
        while not log.getvalue():
            await asyncio.sleep(0.01)
    assert json.loads(log.getvalue())["name"] == logged


def test_the_guard_and_the_settings_have_the_same_limits() -> None:
    """docs/settings.md has the numbers, and is held against the settings."""
    settings = Settings()
    assert Limits() == Limits(settings.concurrent_calls, settings.call_seconds)
    assert Limits().receive_seconds == 10, "docs/settings.md"


@pytest.mark.medium
async def test_a_call_that_takes_too_long_ends(tmp_path: Path) -> None:
    """The server's own limit holds also for callers with a later deadline."""
    async with asyncio.timeout(20), audit_server(tmp_path, limits=Limits(call_seconds=0.1)) as server:
        Barrier(server, "get")
        failure = await failure_of(server.stub.Read(READ, timeout=15))
        assert (failure.status, failure.reason) == ("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED")
        assert server.statuses() == ["DEADLINE_EXCEEDED"]


def test_reads_need_the_audit_log_unless_the_operator_says_so() -> None:
    assert not Gatekeeper().reads_without_audit


@pytest.mark.slow
async def test_as_many_calls_are_in_flight_as_the_limit_says(tmp_path: Path) -> None:
    """And as many again, once they are done."""
    async with asyncio.timeout(20), audit_server(tmp_path, limits=Limits(concurrent_calls=2)) as server:
        for _ in range(2):
            barriers = [Barrier(server, "get") for _ in range(2)]
            calls = [asyncio.create_task(failure_of(server.stub.Read(READ))) for _ in range(2)]
            for barrier in barriers:
                await barrier.reached.wait()
            assert (await failure_of(server.stub.Read(READ))).reason == "RATE_LIMITED"
            for barrier in barriers:
                barrier.opened.set()
            assert [(await call).reason for call in calls] == ["RECORD_NOT_FOUND"] * 2


async def test_only_a_replay_is_recorded_as_replayed(tmp_path: Path) -> None:
    async with asyncio.timeout(20), audit_server(tmp_path) as server:
        key = await mint(server.stub, "a/")
        request = create(key, "a/b")
        for _ in range(2):
            await server.stub.Create(request)
        outcomes = [line for line in server.trail.lines() if line["phase"] == "outcome"]
    assert [line.get("replayed") for line in outcomes] == [None, None, True]


@pytest.mark.medium
async def test_calls_beyond_the_limit_wait_for_their_turn(tmp_path: Path) -> None:
    async with asyncio.timeout(20), audit_server(tmp_path, limits=Limits(concurrent_calls=1)) as server:
        calls = [failure_of(server.stub.Read(pb.ReadRequest(key_id="a"))) for _ in range(50)]
        assert {failure.reason for failure in await asyncio.gather(*calls)} == {"RECORD_NOT_FOUND"}


async def test_a_refused_call_gives_its_slot_back_once(tmp_path: Path) -> None:
    """Where callers have identities it does so before it waits for its turn to be answered."""
    identifier = Identifier(certificates=False)
    async with audit_server(tmp_path, identifier=identifier, limits=Limits(concurrent_calls=1)) as server:
        for _ in range(3):
            assert (await failure_of(server.stub.Read(pb.ReadRequest(key_id="/")))).reason == "INVALID_KEY_ID"
        assert server.guard._slots._free == 1
