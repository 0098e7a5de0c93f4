"""Each fault at each operation under each RPC: a status that is allowed, in time, and nothing lost or done twice."""

import pytest

from tests.server.backends.aws.fault_matrix import UNKNOWN, Seen, allowed, hit_always, hit_once
from tests.server.backends.aws.fault_proxy import FAULTS, Fault
from tests.server.backends.aws.site import site

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.usefixtures("aws_identity")]

DEADLINE = 2.0
CALL_SECONDS = 4.0
"""A fifth of it is the time-out of an attempt, far above the latency of the faults and what a busy machine adds."""
IMPATIENCE = 0.2
"""Deadline that passes before a SLOW fault is answered."""
SLOW = ("latency", "black hole before the effect", "black hole after the effect")
SLACK = 1.7
"""Seconds over the deadline that a busy machine may take; `fault_report.py` reports what was seen."""


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_a_fault_is_survived_or_reported_truly(fault: Fault) -> None:
    """What is stored is what was reported."""
    async with site(CALL_SECONDS, history=0) as opened:
        judge(fault, await hit_once(opened, fault, DEADLINE), once=True)
        judge(fault, await hit_always(opened, fault, DEADLINE), once=False)


def judge(fault: Fault, seen: list[Seen], *, once: bool) -> None:
    assert [one for one in seen if one.status not in allowed(fault, one.operation, once=once)] == []
    assert [one for one in seen if one.seconds > DEADLINE + SLACK] == []


@pytest.mark.parametrize("name", SLOW)
async def test_callers_who_leave_get_no_answer_and_lose_nothing(name: str) -> None:
    async with site(CALL_SECONDS, history=0) as opened:
        seen = await hit_always(opened, FAULTS[name], IMPATIENCE)
    assert {one.status for one in seen} <= UNKNOWN
    assert [one for one in seen if one.seconds > IMPATIENCE + SLACK] == []
