"""Copies of earlier envelopes on DynamoDB: what they cost, and what a failed write or removal of one does."""

import asyncio
import logging
import os
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvault_server.backends.aws.clients import open_aws
from keyvault_server.backends.aws.copies import MOST_REMOVALS, copy_name
from keyvault_server.backends.aws.options import AwsOptions
from keyvault_server.core.errors import BackendUnavailable
from keyvault_server.core.ports import CopyName
from keyvault_server.core.purge import purge
from keyvault_server.core.records import Record, successor
from keyvault_server.core.vault import Vault
from tests.server.backends.aws.conftest import Line, OpenLine
from tests.server.backends.aws.fault_proxy import FAULTS, Fault
from tests.support.callers import Unrestricted
from tests.support.meters import RecordedMeter
from tests.support.requests import Key, some_envelope

TENANT = "acme"
CALLER = Unrestricted(TENANT)
ONCE = [
    name for name in FAULTS if name not in ("latency", "black hole before the effect", "black hole after the effect")
]


@pytest.fixture
def key_id() -> str:
    return "prod/" + os.urandom(8).hex()


def some_record() -> Record:
    return successor(None, some_envelope(), 1, fresh=True)


async def written(line: Line, key_id: str, history: int, revisions: int) -> tuple[Vault, Key]:
    """A vault that keeps so many, and a record of it; requests are counted from here on."""
    vault = Vault(line.keys, line.records, history=history)
    made = await vault.generate_key(CALLER, key_id)
    key = Key(made.plaintext, made.wrapped_key, TENANT)
    await vault.create(CALLER, key_id, key.wrapped, key.seal(key_id, 1))
    for revision in range(2, revisions + 1):
        await vault.update(CALLER, key_id, key.wrapped, key.seal(key_id, revision))
    await line.records.aclose()
    line.dynamodb.requests.clear()
    return vault, key


@pytest.mark.medium
@pytest.mark.parametrize(
    ("history", "expected"),
    [(0, {"GetItem": 1, "PutItem": 1}), (2, {"GetItem": 1, "PutItem": 2, "DeleteItem": 1})],
)
async def test_an_update_sends_no_more_than_this(
    fresh_line: Line, key_id: str, history: int, expected: dict[str, int]
) -> None:
    vault, key = await written(fresh_line, key_id, history, 5)
    await vault.update(CALLER, key_id, key.wrapped, key.seal(key_id, 6))
    await fresh_line.records.aclose()
    assert fresh_line.dynamodb.requests == expected


async def test_an_earlier_revision_is_read_with_two_requests(fresh_line: Line, key_id: str) -> None:
    vault, key = await written(fresh_line, key_id, 10, 3)
    found = await vault.read(CALLER, key_id, revision=2)
    assert found.envelope is not None
    assert key.open(key_id, found.envelope) == b"data"
    assert fresh_line.dynamodb.requests == {"GetItem": 2}
    await vault.list_revisions(CALLER, key_id)
    assert fresh_line.dynamodb.requests == {"GetItem": 3}


@pytest.mark.medium
@pytest.mark.parametrize("name", ONCE)
async def test_the_write_of_a_copy_is_repeated(fresh_line: Line, key_id: str, name: str) -> None:
    """It has the same effect however often it is done; the conditional write after it is sent once."""
    fresh_line.dynamodb.break_with(FAULTS[name], "PutItem", number=1)
    record = some_record()
    await fresh_line.records.keep(TENANT, key_id, 1, record)
    assert fresh_line.dynamodb.hits == 1
    assert await fresh_line.records.get_copy(TENANT, key_id, 1) == record.envelope


@pytest.mark.medium
async def test_an_update_whose_copy_fails_for_good_is_not_done(fresh_line: Line, key_id: str) -> None:
    vault, key = await written(fresh_line, key_id, 10, 2)
    fresh_line.dynamodb.break_with(FAULTS["reset before the effect"], "PutItem")
    with pytest.raises(BackendUnavailable):
        await vault.update(CALLER, key_id, key.wrapped, key.seal(key_id, 3))
    fresh_line.dynamodb.heal()
    assert (await vault.read(CALLER, key_id)).revision == 2


@pytest.mark.medium
async def test_a_failed_removal_is_logged_and_fails_nothing(
    open_line: OpenLine, key_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_line() as line:
        vault, key = await written(line, key_id, 2, 4)
        line.dynamodb.break_with(FAULTS["500 before the effect"], "DeleteItem")
        with caplog.at_level(logging.WARNING, "keyvault_server.backends.aws.copies"):
            assert (await vault.update(CALLER, key_id, key.wrapped, key.seal(key_id, 5))).revision == 5
            await line.records.aclose()
        (logged,) = [record for record in caplog.records if record.name.endswith("copies")]
        assert logged.getMessage() == "copies were not removed: keyvault-server sweep removes them"
        assert (vars(logged)["copies"], vars(logged)["error"]) == (1, "delete_item: InternalServerError")
        assert key_id not in caplog.text, "the log of a server has names in its access log alone"
        assert line.records.copies_not_removed == {"failed": 1, "too_many": 0, "stopping": 0}
        line.dynamodb.heal()
        assert await line.records.get_copy(TENANT, key_id, 2) is not None


@pytest.mark.medium
async def test_what_is_not_removed_is_a_metric(standin_options: AwsOptions, key_id: str) -> None:
    meter = RecordedMeter()
    async with open_aws(standin_options, meter) as (_, records):
        for _ in range(MOST_REMOVALS):
            records.remove(TENANT, key_id, range(1, 2))
        records.remove(TENANT, key_id, range(1, 4))
        assert meter.counts["copies_not_removed"] == {"failed": 0, "too_many": 3, "stopping": 0}


@pytest.mark.medium
async def test_a_removal_is_repeated_and_a_stop_waits_for_it(open_line: OpenLine, key_id: str) -> None:
    async with open_line() as line:
        for revision in range(1, 4):
            await line.records.keep(TENANT, key_id, revision, some_record())
        line.dynamodb.break_with(FAULTS["503 before the effect"], "DeleteItem", number=2)
        line.records.remove(TENANT, key_id, range(1, 4))
    async with open_line() as line:
        copies = [await line.records.get_copy(TENANT, key_id, revision) for revision in range(1, 4)]
    assert copies == [None] * 3


@pytest.mark.slow
async def test_a_stop_does_not_wait_long_for_a_slow_dynamodb(
    open_line: OpenLine, key_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_line(call_timeout=1.0) as line:
        line.dynamodb.break_with(Fault(delay=0.15), "DeleteItem")
        line.records.remove(TENANT, key_id, range(1, 16))
        began = time.monotonic()
        await line.records.aclose()
        assert time.monotonic() - began < 1.8, "fifteen removals take 2.2 s"
        assert "stopped while copies were removed" in caplog.text
        left = dict(line.records.copies_not_removed)
        assert 1 <= left.pop("stopping") < 15
        assert left == {"failed": 0, "too_many": 0}


@pytest.mark.medium
async def test_what_is_too_much_to_remove_is_left_and_logged(
    open_line: OpenLine, key_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_line() as line:
        await line.records.keep(TENANT, key_id, 5, some_record())
        with caplog.at_level(logging.WARNING, "keyvault_server.backends.aws.copies"):
            for _ in range(MOST_REMOVALS):
                line.records.remove(TENANT, key_id, range(1, 2))
            assert not caplog.records
            line.records.remove(TENANT, key_id, range(5, 6))
        assert vars(caplog.records[0])["copies"] == 1
        assert line.records.copies_not_removed["too_many"] == 1
        await line.records.aclose()
        assert await line.records.get_copy(TENANT, key_id, 5) is not None


async def test_a_purge_removes_what_was_kept(fresh_line: Line, key_id: str) -> None:
    await written(fresh_line, key_id, 10, 4)
    await fresh_line.records.keep(TENANT, key_id, 4, some_record())  # as an Update does that fails afterwards
    await purge(fresh_line.records, CALLER, key_id)
    await fresh_line.records.aclose()
    assert [name async for name in fresh_line.records.walk_copies() if name.key_id == key_id] == []


async def test_an_item_in_place_of_a_copy_is_not_one(fresh_line: Line, key_id: str) -> None:
    """Nor is it a record, so that nobody who can write the table can put a record under such a key."""
    for item in ({"envelope": {"S": "text"}}, {"head": {"B": b"h"}}):
        planted = {"pk": {"S": f"{TENANT}#{key_id}#1"}, **item}
        await fresh_line.records._dynamodb.call("put_item", TableName="keyvault", Item=planted)
        assert await fresh_line.records.get_copy(TENANT, key_id, 1) is None
    assert [walked async for walked in fresh_line.records.walk() if walked.key_id.startswith(key_id)] == []


_PARTS = st.lists(st.text("ab1#0", max_size=4), min_size=1, max_size=4)


@pytest.mark.medium
@given(_PARTS.map("#".join))
def test_a_key_is_of_a_copy_in_one_way_or_not_at_all(key: str) -> None:
    name = copy_name(key)
    if name is not None:
        assert f"{name.tenant}#{name.key_id}#{name.revision}" == key
        assert key.count("#") == 2


@pytest.mark.parametrize("digits", ["", "0", "01", "-1", "1.5", "+1", " 1", "²", "9223372036854775808", "1" * 5_000])
def test_what_is_no_revision_makes_no_copy(digits: str) -> None:
    assert copy_name(f"acme#prod/db#{digits}") is None


def test_the_highest_revision_makes_a_copy() -> None:
    assert copy_name("acme#prod/db#9223372036854775807") == CopyName("acme", "prod/db", 2**63 - 1)


@pytest.mark.medium
async def test_a_caller_that_leaves_leaves_the_removal_running(open_line: OpenLine, key_id: str) -> None:
    async with open_line() as line:
        await line.records.keep(TENANT, key_id, 1, some_record())

        async def call() -> None:
            line.records.remove(TENANT, key_id, range(1, 2))
            await asyncio.sleep(20)

        task = asyncio.create_task(call())
        await asyncio.sleep(0)
        task.cancel()
        await line.records.aclose()
        assert await line.records.get_copy(TENANT, key_id, 1) is None
