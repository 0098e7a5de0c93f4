"""Refused calls: at once up to a rate, then one after the other, and no caller keeps another one waiting."""

import asyncio
import gc
import io
import json
import time
from collections import Counter
from pathlib import Path
from types import FrameType

import pytest

from keyvault_api.v1 import keyvault_pb2 as pb
from keyvault_server.access.identity import Identifier
from keyvault_server.access.quotas import Quotas
from keyvault_server.core.reading import judge
from keyvault_server.rpc.access_log import AccessLog
from keyvault_server.rpc.gatekeeper import UNIDENTIFIED as LISTED
from keyvault_server.rpc.refusals import ADDRESS, LONGEST_SECONDS, MOST, UNIDENTIFIED, Refusals, host_of
from tests.support.audit_server import AuditServer, audit_server
from tests.support.clock import Clock
from tests.support.policy_server import BILLING, policy_of_reads, policy_server
from tests.support.refusals import Failure, failure_of

READ = pb.ReadRequest(key_id="a")


ALICE = "spiffe://example.org/a"


def turns(refusals: Refusals, calls: int, identity: str = "", address: str = "ipv4:192.0.2.1") -> list[float]:
    """Refuse so many calls of one caller; return for each how many seconds it waits."""
    rate = ADDRESS if identity else None
    return [refusals.turn(identity, rate, address) for _ in range(calls)]


@pytest.mark.parametrize("identity", ["", ALICE])
def test_what_comes_after_a_burst_waits_for_its_turn(identity: str) -> None:
    burst = int(ADDRESS.burst)
    found = turns(Refusals(Counter(), Quotas(Clock())), burst + 3, identity)
    assert found[:burst] == [0.0] * burst
    assert found[burst:] == pytest.approx([number / ADDRESS.per_second for number in (1, 2, 3)])


def spend_what_unidentified_callers_share(refusals: Refusals) -> None:
    for number in range(int(UNIDENTIFIED.burst)):
        assert turns(refusals, 1, address=f"ipv4:192.0.2.{number % 50}") == [0.0]


def test_addresses_share_what_unidentified_callers_have() -> None:
    refusals = Refusals(Counter(), Quotas(Clock()))
    spend_what_unidentified_callers_share(refusals)
    assert turns(refusals, 2, address="ipv4:192.0.2.200") == pytest.approx([0.005, 0.01])


def test_the_refusals_of_others_cost_an_identity_nothing() -> None:
    refusals = Refusals(Counter(), Quotas(Clock()))
    spend_what_unidentified_callers_share(refusals)
    assert turns(refusals, 3, ALICE) == [0.0] * 3


def test_no_wait_is_longer_than_the_longest() -> None:
    quotas = Quotas(Clock())
    drawn = [quotas.draw("a", "refused", ADDRESS, LONGEST_SECONDS) for _ in range(1_000)]
    assert drawn[: int(ADDRESS.burst)] == [0.0] * int(ADDRESS.burst)
    assert drawn == sorted(drawn)
    assert drawn[int(ADDRESS.burst)] == pytest.approx(1 / ADDRESS.per_second)
    assert max(drawn) == LONGEST_SECONDS


def test_the_longest_waits_do_not_end_at_the_same_time() -> None:
    """A flood of calls that come back at once would be a wave, in which other callers wait."""
    longest = turns(Refusals(Counter(), Quotas(Clock())), 1_000)[-500:]
    assert min(longest) >= LONGEST_SECONDS / 2
    assert max(longest) <= LONGEST_SECONDS
    most_in_a_tenth = max(Counter(int(wait * 10) for wait in longest).values())
    assert most_in_a_tenth <= 22  # of 20 on average


def test_a_token_too_far_away_is_not_taken() -> None:
    clock = Clock()
    quotas = Quotas(clock)
    for _ in range(1_000):
        quotas.draw("a", "refused", ADDRESS, LONGEST_SECONDS)
    clock.now += LONGEST_SECONDS + ADDRESS.burst / ADDRESS.per_second
    assert quotas.draw("a", "refused", ADDRESS, LONGEST_SECONDS) == 0.0


def test_connections_of_one_machine_have_one_host() -> None:
    assert host_of("ipv4:192.0.2.1:50") == host_of("ipv4:192.0.2.1:51")
    assert host_of("ipv6:%5B::1%5D:50") != host_of("ipv6:%5B::2%5D:50")


def refused(server: AuditServer, calls: int) -> list[asyncio.Task[Failure]]:
    """Start so many calls that are refused."""
    return [asyncio.create_task(failure_of(server.stub.Read(READ, timeout=30))) for _ in range(calls)]


@pytest.mark.slow
async def test_a_stop_waits_for_no_turn(tmp_path: Path) -> None:
    async with audit_server(tmp_path, identifier=Identifier(certificates=True)) as server:
        failures = refused(server, int(ADDRESS.burst) + 60)
        async with asyncio.timeout(20):
            while not len(server.guard.refusals):
                await asyncio.sleep(0.01)
                failures += refused(server, 5)  # a busy machine refuses slower than turns come round
        began = time.monotonic()
        server.guard.close()
        await server.guard.wait_idle()
        assert time.monotonic() - began < LONGEST_SECONDS / 2
        assert {(await failure).status for failure in failures} <= {"UNAUTHENTICATED", "UNAVAILABLE"}


@pytest.mark.slow
async def test_calls_without_an_identity_do_not_fill_the_access_log(tmp_path: Path) -> None:
    stream = io.StringIO()
    access_log = AccessLog(stream)
    calls = int(LISTED.burst) + 50
    async with audit_server(tmp_path, identifier=Identifier(certificates=True), access_log=access_log) as server:
        for _ in range(calls):
            await failure_of(server.stub.Read(READ))
        access_log.close()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    (counted,) = [line for line in lines if "calls" in line]
    assert (counted["status"], counted["reason"]) == ("UNAUTHENTICATED", "UNAUTHENTICATED")
    assert len(lines) - 1 + counted["calls"] == calls
    assert counted["calls"] > 40


async def test_the_connection_of_one_refusal_too_many_is_cut() -> None:
    cut: list[str] = []

    def cutter(peer: str) -> bool:
        cut.append(peer)
        return True

    cuts: Counter[str] = Counter()
    refusals = Refusals(cuts, Quotas(Clock()), cutter)
    waiting = [asyncio.create_task(refusals.wait_turn("", None, f"ipv4:192.0.2.1:{n}")) for n in range(MOST + 200)]
    await asyncio.sleep(0)
    refusals.close()
    await asyncio.gather(*waiting)
    assert len(cut) == cuts["refusals"] == 200 - int(ADDRESS.burst)
    assert set(cut) <= {f"ipv4:192.0.2.1:{n}" for n in range(MOST, MOST + 200)}


@pytest.mark.medium
async def test_a_refusal_that_waits_holds_no_frames_of_its_call(tmp_path: Path) -> None:
    """They have the request in them, and 2,000 refusals may wait."""
    policy = policy_of_reads(100) + "refused = { per_second = 0.01, burst = 1 }\n"
    async with (
        policy_server(tmp_path, policy_text=policy) as server,
        server.stub(server.authority.issue(BILLING)) as stub,
    ):
        calls = [asyncio.create_task(failure_of(stub.Read(pb.ReadRequest(key_id="dev/a"), timeout=30))) for _ in "123"]
        async with asyncio.timeout(20):
            while sum(line.get("reason") == "POLICY_DENIED" for line in server.lines()) < len(calls):
                await asyncio.sleep(0.01)
            while not any(call.done() for call in calls):
                await asyncio.sleep(0.01)
        frames = [one for one in gc.get_objects() if isinstance(one, FrameType) and one.f_code is judge.__code__]
        for call in calls:
            call.cancel()
    assert not frames
