"""How many calls are in flight at a service, and what becomes of those whose caller has left."""

import asyncio
import os
from collections.abc import Awaitable

import pytest

from keyvault_server.core.errors import BackendUnavailable
from keyvault_server.core.records import Record, successor
from tests.server.backends.aws.conftest import Line, OpenLine
from tests.server.backends.aws.fault_proxy import FAULTS, Fault
from tests.support.requests import some_envelope

pytestmark = pytest.mark.slow

TENANT = "acme"
SLOW = Fault(delay=0.5)
BLACK_HOLE = FAULTS["black hole before the effect"]
POOL = 4


@pytest.fixture
def key_id() -> str:
    return "prod/" + os.urandom(8).hex()


def some_record() -> Record:
    return successor(None, some_envelope(), 1, fresh=True)


async def impatiently(*calls: Awaitable[object]) -> None:
    """Make calls whose callers leave after a tenth of a second."""

    async def give_up(call: Awaitable[object]) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await call

    await asyncio.gather(*(give_up(call) for call in calls))


async def idle(line: Line) -> None:
    """Return when nothing is in flight at KMS any more."""
    line.kms.heal()
    await asyncio.gather(*(line.keys.generate(TENANT, "prod/") for _ in range(POOL)))


async def test_no_more_calls_than_connections_are_in_flight(open_line: OpenLine) -> None:
    async with open_line(max_connections=POOL) as line:
        line.kms.break_with(Fault(delay=0.01))
        await asyncio.gather(*(line.keys.generate(TENANT, "prod/") for _ in range(10 * POOL)))
        assert line.kms.connections <= POOL


async def test_callers_who_leave_a_slow_backend_cost_no_connection(open_line: OpenLine) -> None:
    async with open_line(max_connections=POOL) as line:
        line.kms.break_with(SLOW)
        for _ in range(3):
            await impatiently(*(line.keys.generate(TENANT, "prod/") for _ in range(25)))
        await idle(line)
        assert line.kms.connections <= POOL


async def test_nothing_is_sent_for_a_caller_who_left_the_queue(open_line: OpenLine) -> None:
    """A call that waits for a connection is not sent once its caller has left."""
    async with open_line(max_connections=POOL) as line:
        line.kms.break_with(SLOW)
        await impatiently(*(line.keys.generate(TENANT, "prod/") for _ in range(100)))
        assert line.kms.requests["GenerateDataKey"] <= POOL


async def test_leaving_a_black_hole_keeps_connections_bounded(open_line: OpenLine) -> None:
    """Callers who leave it never open more connections than the limit."""
    async with open_line(max_connections=POOL, call_timeout=30.0) as line:
        line.kms.break_with(BLACK_HOLE)
        for _ in range(5):
            await impatiently(*(line.keys.generate(TENANT, "prod/") for _ in range(20)))
        assert line.kms.connections <= POOL


async def test_calls_in_a_black_hole_end_in_time(open_line: OpenLine) -> None:
    """Calls that wait for a connection end in time as well."""
    async with open_line(max_connections=1, call_timeout=0.5) as line:
        line.dynamodb.break_with(BLACK_HOLE)
        line.kms.break_with(BLACK_HOLE)
        calls = [
            *(line.records.get(TENANT, "absent") for _ in range(5)),
            *(line.records.put_if(TENANT, "k", some_record(), None) for _ in range(5)),
            *(line.keys.generate(TENANT, "prod/") for _ in range(5)),
        ]
        async with asyncio.timeout(20):  # one after the other on silence alone they would take a minute and more
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(outcome, BackendUnavailable) for outcome in outcomes), outcomes


async def test_a_write_whose_caller_left_is_done_all_the_same(line: Line, key_id: str) -> None:
    record = some_record()
    line.dynamodb.break_with(SLOW, "PutItem")
    await impatiently(line.records.put_if(TENANT, key_id, record, None))
    async with asyncio.timeout(30):
        while await line.records.get(TENANT, key_id) != record:
            await asyncio.sleep(0.05)


async def test_a_stop_does_not_wait_for_calls_that_nobody_waits_for(open_line: OpenLine) -> None:
    async with asyncio.timeout(20):
        async with open_line(call_timeout=600.0) as line:
            line.dynamodb.break_with(BLACK_HOLE)
            await impatiently(line.records.get(TENANT, "absent"))
