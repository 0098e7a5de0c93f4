"""Callers without an identity cannot fill the audit log: beyond a small rate their refusals are counted, not listed."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from keyvault_api.v1 import keyvault_pb2 as pb
from keyvault_api.v1.keyvault_pb2_grpc import KeyVaultStub
from keyvault_server.access.identity import Identifier
from keyvault_server.audit.key import AuditKey
from keyvault_server.audit.line import Chain
from keyvault_server.audit.replay import against_store
from keyvault_server.audit.verify import verify
from keyvault_server.backends.embedded.sqlite import open_store
from keyvault_server.core.errors import AuditUnavailable
from keyvault_server.rpc.gatekeeper import UNIDENTIFIED
from keyvault_server.rpc.guard import Limits
from tests.support.audit_server import Disk, audit_server
from tests.support.connections import bearer
from tests.support.policy_server import policy_server
from tests.support.refusals import failure_of
from tests.support.trails import CALL, Trail, note, small_files, some_change

FLOOD = 500
AT_ONCE = 200
UNAUTHENTICATED = ("UNAUTHENTICATED", "UNAUTHENTICATED")


@pytest.fixture
def trail(tmp_path: Path) -> Trail:
    return Trail(tmp_path)


async def unidentified(stub: KeyVaultStub, count: int) -> Counter[str]:
    """So many calls without an identity, AT_ONCE at a time; what they are answered."""
    told: Counter[str] = Counter()
    left = iter(range(count))

    async def call() -> None:
        for _ in left:
            told[(await failure_of(stub.Read(pb.ReadRequest(key_id="a")))).reason] += 1

    await asyncio.gather(*(call() for _ in range(AT_ONCE)))
    return told


def refusals(lines: Iterable[dict[str, Any]]) -> tuple[Counter[tuple[str, str]], Counter[tuple[str, str]]]:
    """Calls without an identity by status and reason: those that have a line each, and those that are counted."""
    listed: Counter[tuple[str, str]] = Counter()
    counted: Counter[tuple[str, str]] = Counter()
    for line in lines:
        if line["phase"] == "outcome" and "caller" not in line:
            listed[line["status"], line["reason"]] += 1
        elif line["phase"] == "refused":
            counted[line["status"], line["reason"]] += line["count"]
    return listed, counted


@pytest.mark.slow
async def test_a_flood_of_unidentified_calls_is_a_few_lines(tmp_path: Path) -> None:
    """They count every call."""
    async with policy_server(tmp_path, certificates=False, tokens=True) as gate, gate.stub(None) as stub:
        flood = asyncio.create_task(unidentified(stub, FLOOD))
        known = [
            stub.Read(pb.ReadRequest(key_id=f"known/{number}"), metadata=bearer(gate.issuer.token()))
            for number in range(40)
        ]
        answers = [(await failure_of(call)).reason for call in known]
        told = await flood
    assert told == {"UNAUTHENTICATED": FLOOD}
    assert set(answers) == {"RECORD_NOT_FOUND"}
    listed, counted = refusals(gate.lines())
    assert listed + counted == {UNAUTHENTICATED: FLOOD}
    assert UNIDENTIFIED.burst <= listed[UNAUTHENTICATED] < UNIDENTIFIED.burst + 60, "some come back while it lasts"
    assert len([line for line in gate.lines() if line.get("caller") == "jwt:service-7"]) == 40, "each has its line"
    assert len(gate.lines()) < UNIDENTIFIED.burst + 150
    report = verify([gate.audit_file], AuditKey.load(gate.folder / "audit.jsonl.key"), patience=0)
    assert report.whole, report.bad
    assert report.refused == counted[UNAUTHENTICATED]


@pytest.mark.slow
async def test_those_that_no_server_has_room_for_are_counted_apart(tmp_path: Path) -> None:
    identifier = Identifier(certificates=True)
    async with audit_server(tmp_path, identifier=identifier, limits=Limits(concurrent_calls=1)) as server:
        told = await unidentified(server.stub, 400)
    listed, counted = refusals(server.trail.lines())
    assert {reason: number for (_, reason), number in (listed + counted).items()} == told
    assert sum(listed.values()) < UNIDENTIFIED.burst + 60


@pytest.mark.slow
async def test_where_nobody_is_asked_who_calls_every_call_has_its_line(tmp_path: Path) -> None:
    async with audit_server(tmp_path) as server:
        told = await unidentified(server.stub, 3 * int(UNIDENTIFIED.burst))
    assert told == {"RECORD_NOT_FOUND": 3 * UNIDENTIFIED.burst}
    assert refusals(server.trail.lines()) == ({("NOT_FOUND", "RECORD_NOT_FOUND"): 3 * UNIDENTIFIED.burst}, {})


# The line that sums up


@pytest.mark.medium
async def test_what_was_counted_is_in_the_next_checkpoint_once(trail: Trail) -> None:
    async with trail.open(checkpoint_seconds=0.01) as audit:
        for count in (3, 4):
            before = len(trail.lines())
            for _ in range(count):
                audit.count_refused(*UNAUTHENTICATED)
            async with asyncio.timeout(10):
                while len(trail.lines()) < before + 2:
                    await asyncio.sleep(0.01)
        size = trail.path.stat().st_size
        await asyncio.sleep(0.05)
        assert trail.path.stat().st_size == size, "nothing came, nothing is logged"
    sums = [line for line in trail.lines() if line["phase"] == "refused"]
    assert [line["count"] for line in sums] == [3, 4]
    assert list(sums[0]) == ["seq", "batch", "ts", "boot", "phase", "status", "reason", "count", "prev", "mac"]
    assert trail.verified().refused == 7


async def test_a_stop_writes_what_was_counted_before_its_checkpoint(trail: Trail) -> None:
    async with trail.open() as audit:
        audit.count_refused(*UNAUTHENTICATED)
        audit.count_refused("RESOURCE_EXHAUSTED", "RATE_LIMITED")
    assert trail.phases() == ["boot", "checkpoint", "refused", "refused", "checkpoint"]
    assert trail.verified().refused == 2


@pytest.mark.medium
async def test_what_a_full_log_does_not_take_is_logged_later(trail: Trail) -> None:
    """When there is room."""
    with small_files(trail) as make_room:
        async with trail.open(checkpoint_seconds=0.01) as audit:
            with contextlib.suppress(AuditUnavailable):
                while True:
                    await note(audit, 1)
            audit.count_refused(*UNAUTHENTICATED)
            await asyncio.sleep(0.05)
            audit.count_refused(*UNAUTHENTICATED)
            make_room()
    assert trail.verified().refused == 2


async def test_a_stop_during_the_write_of_a_sum_writes_it_once(trail: Trail) -> None:
    """While the sum is on its way to the disk."""
    disk = Disk()
    opened = trail.open(sync=disk, checkpoint_seconds=0.01)
    audit = await opened.__aenter__()
    disk.hang()
    audit.count_refused(*UNAUTHENTICATED)
    await asyncio.to_thread(disk.reached.wait, 10)
    stopped = asyncio.create_task(opened.__aexit__(None, None, None))
    await asyncio.sleep(0.05)
    disk.heal()
    await stopped
    assert trail.verified().refused == 1


async def test_the_store_is_held_against_a_log_with_sums(trail: Trail, tmp_path: Path) -> None:
    async with trail.open() as audit, open_store(tmp_path / "records.sqlite3") as records:
        change, record = some_change()
        for _ in range(2):
            audit.count_refused(*UNAUTHENTICATED)
        seq = await audit.intent(CALL, change, expected=None)
        await records.put_if(CALL.tenant, CALL.key_id, record, None)
        await audit.outcome(CALL, "OK", change=change, intent=seq)
    async with open_store(tmp_path / "records.sqlite3") as records:
        report = await against_store([trail.path], trail.key, records, patience=0)
    assert (report.records, report.findings) == (1, [])


@pytest.mark.parametrize("count", ["true", '"7"', "1.5", "null", "-1"])
def test_a_sum_without_a_number_is_an_invalid_line(trail: Trail, count: str) -> None:
    """The public key alone reads lines that nothing has proved yet."""
    key, chain = AuditKey.create(trail.key_path), Chain()
    texts = ('"phase":"boot","log":"a"', f'"phase":"refused","count":{count}')
    trail.path.write_bytes(b"".join(chain.add(key, text) for text in texts))
    trail.checkpoints.write_bytes(b"")
    assert str(verify([trail.path], key, patience=0).bad) == f"{trail.path} line 2: not a valid audit log line"
