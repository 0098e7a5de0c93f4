"""What is retried, what never is, and what is looked up instead."""

import asyncio
import os
from collections.abc import Awaitable, Callable

import pytest

from keyvault_server.backends.aws.dynamodb import DynamoRecordStore
from keyvault_server.backends.aws.retries import ANSWERS, ATTEMPTS, BUDGET
from keyvault_server.core.errors import BackendThrottled, BackendUnavailable
from keyvault_server.core.ports import HeadChanged, WrappedBlob
from keyvault_server.core.records import Record, StoredHead, successor, vacancy
from tests.server.backends.aws.conftest import Line, OpenLine
from tests.server.backends.aws.fault_proxy import FAULTS, Fault, FaultProxy
from tests.support.requests import some_envelope

pytestmark = pytest.mark.slow

TENANT, SCOPE = "acme", "prod/"
BEFORE, AFTER = FAULTS["reset before the effect"], FAULTS["reset after the effect"]
PASSING = {name: fault for name, fault in FAULTS.items() if "black hole" not in name}
Operation = Callable[[Line, WrappedBlob], Awaitable[object]]
WITHOUT_EFFECT: dict[str, Operation] = {
    "GenerateDataKey": lambda line, wrapped: line.keys.generate(TENANT, SCOPE),
    "Decrypt": lambda line, wrapped: line.keys.unwrap(TENANT, SCOPE, wrapped),
    "ReEncrypt": lambda line, wrapped: line.keys.rewrap(TENANT, SCOPE, wrapped),
    "DescribeKey": lambda line, wrapped: line.keys.check(),
    "GetItem": lambda line, wrapped: line.records.get(TENANT, "absent"),
    "BatchGetItem": lambda line, wrapped: read_together(line),
}


async def read_together(line: Line) -> None:
    """Read four records at once: two leave alone, and the other two in a batch."""
    reads = (line.records.get(TENANT, f"absent-{number}") for number in range(4))
    for outcome in await asyncio.gather(*reads, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome


@pytest.fixture
def key_id() -> str:
    return "prod/" + os.urandom(8).hex()


@pytest.fixture
async def wrapped(fresh_line: Line) -> WrappedBlob:
    return (await fresh_line.keys.generate(TENANT, SCOPE)).wrapped


def proxies(line: Line) -> tuple[FaultProxy, FaultProxy]:
    return line.kms, line.dynamodb


def sent(line: Line, operation: str) -> int:
    return sum(proxy.requests[operation] for proxy in proxies(line))


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
async def test_what_has_no_effect_is_retried_until_it_is_answered(
    fresh_line: Line, wrapped: WrappedBlob, fault: Fault
) -> None:
    for operation, call in WITHOUT_EFFECT.items():
        before = sent(fresh_line, operation)
        for proxy in proxies(fresh_line):
            proxy.rules.clear()
            proxy.break_with(fault, operation, number=1)
            proxy.break_with(fault, operation, number=1)
        await call(fresh_line, wrapped)
        assert sent(fresh_line, operation) - before == (1 if fault.answer is None else ATTEMPTS)


async def test_it_is_sent_a_few_times_at_most(fresh_line: Line, wrapped: WrappedBlob) -> None:
    for fault, meaning in ((BEFORE, BackendUnavailable), (FAULTS["throttling"], BackendThrottled)):
        for proxy in proxies(fresh_line):
            proxy.rules.clear()
            proxy.requests.clear()
            proxy.break_with(fault)
        for operation, call in WITHOUT_EFFECT.items():
            with pytest.raises(meaning):
                await call(fresh_line, wrapped)
            assert sent(fresh_line, operation) == ATTEMPTS


async def test_an_outage_is_not_multiplied_by_retries(fresh_line: Line) -> None:
    """Answered calls earn retries back."""
    fresh_line.dynamodb.break_with(BEFORE)
    for _ in range(60):
        with pytest.raises(BackendUnavailable):
            await fresh_line.records.get(TENANT, "absent")
    assert 60 < fresh_line.dynamodb.requests["GetItem"] <= 60 + BUDGET

    fresh_line.dynamodb.heal()
    for _ in range(ANSWERS):
        await fresh_line.records.get(TENANT, "absent")
    fresh_line.dynamodb.break_with(BEFORE, number=1)
    await fresh_line.records.get(TENANT, "absent")


async def test_an_outage_of_one_service_costs_the_other_nothing(fresh_line: Line, wrapped: WrappedBlob) -> None:
    fresh_line.dynamodb.break_with(BEFORE)
    for _ in range(int(BUDGET)):
        with pytest.raises(BackendUnavailable):
            await fresh_line.records.get(TENANT, "absent")
    fresh_line.kms.break_with(BEFORE, number=1)
    await fresh_line.keys.unwrap(TENANT, SCOPE, wrapped)


async def test_silence_is_given_up_early_enough_to_ask_again(open_line: OpenLine) -> None:
    async with open_line(call_timeout=5.0) as line:
        line.dynamodb.break_with(FAULTS["black hole before the effect"], number=1)
        assert await line.records.get(TENANT, "absent") is None


def first() -> Record:
    return successor(None, some_envelope(), 1, fresh=True)


def after(record: StoredHead, *, now: int = 2) -> Record:
    return successor(record, some_envelope(), now, fresh=False)


async def put_in_trouble(line: Line, key_id: str, record: Record, expected: Record | None, fault: Fault) -> None:
    """Put a record while the fault hits the request; check that it is sent once, whatever its outcome."""
    line.dynamodb.requests.clear()
    line.dynamodb.rules.clear()
    line.dynamodb.break_with(fault, "PutItem")
    try:
        await line.records.put_if(TENANT, key_id, record, expected.head if expected else None)
    finally:
        line.dynamodb.heal()
        assert line.dynamodb.requests["PutItem"] == 1


async def store(records: DynamoRecordStore, key_id: str, *history: Record) -> None:
    """Store these records, each over the one before it."""
    expected = None
    for record in history:
        await records.put_if(TENANT, key_id, record, expected)
        expected = record.head


LOST_REPLIES = {name: fault for name, fault in PASSING.items() if fault.writes_are_unknown}
LOST_REQUESTS = {
    name: fault
    for name, fault in PASSING.items()
    if fault.answer is not None and name not in (*LOST_REPLIES, "throttling")
}


@pytest.mark.parametrize("fault", LOST_REPLIES.values(), ids=LOST_REPLIES)
async def test_a_write_whose_reply_was_lost_is_looked_for_and_found(line: Line, key_id: str, fault: Fault) -> None:
    one = first()
    await put_in_trouble(line, key_id, one, None, fault)
    two = after(one)
    await put_in_trouble(line, key_id, two, one, fault)
    empty = vacancy(2, 3)
    await put_in_trouble(line, key_id, empty, two, fault)
    assert await line.records.get(TENANT, key_id) == empty


@pytest.mark.parametrize("fault", LOST_REQUESTS.values(), ids=LOST_REQUESTS)
async def test_a_write_that_is_not_there_may_still_come_and_is_unknown(line: Line, key_id: str, fault: Fault) -> None:
    one = first()
    with pytest.raises(BackendUnavailable):
        await put_in_trouble(line, key_id, one, None, fault)
    await store(line.records, key_id, one)
    with pytest.raises(BackendUnavailable):
        await put_in_trouble(line, key_id, after(one), one, fault)
    assert await line.records.get(TENANT, key_id) == one


async def test_a_throttled_write_is_neither_retried_nor_looked_up(line: Line, key_id: str) -> None:
    with pytest.raises(BackendThrottled):
        await put_in_trouble(line, key_id, first(), None, FAULTS["throttling"])
    assert line.dynamodb.requests["GetItem"] == 0


@pytest.mark.parametrize("newer", [1, 2, 14])
async def test_a_write_that_anothers_made_impossible_is_reported(line: Line, key_id: str, newer: int) -> None:
    """It is HeadChanged, with what is stored."""
    one = first()
    history = [one]
    for _ in range(newer):
        history.append(after(history[-1]))
    await store(line.records, key_id, *history)
    with pytest.raises(HeadChanged) as refused:
        await put_in_trouble(line, key_id, after(one), one, BEFORE)
    assert refused.value.stored == await line.records.get_head(TENANT, key_id)


async def test_beyond_the_rings_reach_the_outcome_is_unknown(line: Line, key_id: str) -> None:
    one = first()
    history = [one]
    for _ in range(16):
        history.append(after(history[-1]))
    await store(line.records, key_id, *history)
    with pytest.raises(BackendUnavailable):
        await put_in_trouble(line, key_id, after(one), one, BEFORE)


async def test_where_a_purge_may_have_hidden_it_the_outcome_is_unknown(line: Line, key_id: str) -> None:
    one, empty = first(), vacancy(2, 3)
    await store(line.records, key_id, one, empty)
    with pytest.raises(BackendUnavailable):
        await put_in_trouble(line, key_id, after(one), one, BEFORE)
    await line.records.put_if(TENANT, key_id, after(empty), empty.head)
    with pytest.raises(BackendUnavailable):
        await put_in_trouble(line, key_id, first(), None, BEFORE)


async def test_a_write_that_was_written_over_is_unknown(line: Line, key_id: str) -> None:
    """Its caller retries and gets the answer to a replay, which it is by then."""
    one = first()
    two = after(one)
    await store(line.records, key_id, one, two, after(two))
    with pytest.raises(BackendUnavailable):
        await put_in_trouble(line, key_id, two, one, BEFORE)


async def test_another_attempt_with_the_envelope_is_not_this_one(line: Line, key_id: str) -> None:
    envelope = some_envelope()
    await store(line.records, key_id, successor(None, envelope, 1, fresh=True))
    with pytest.raises(BackendUnavailable):
        await put_in_trouble(line, key_id, successor(None, envelope, 2, fresh=True), None, BEFORE)


async def test_a_write_that_cannot_be_looked_up_is_unknown(line: Line, key_id: str) -> None:
    """The reason of the failed look-up does not matter."""
    for fault in (FAULTS["throttling"], BEFORE, FAULTS["HTML with 200 before the effect"]):
        line.dynamodb.rules.clear()
        line.dynamodb.break_with(AFTER, "PutItem")
        line.dynamodb.break_with(fault, "GetItem")
        with pytest.raises(BackendUnavailable):
            await line.records.put_if(TENANT, key_id, first(), None)
