"""The memory that clients can make a server take: a sum that follows the settings, and memory that is given back."""

import asyncio
import gc
import weakref
from collections.abc import Iterator
from contextlib import suppress

import pytest

from keyvault_api.envelope import MAX_ENVELOPE
from keyvault_server.backends.aws.dynamodb import DynamoRecordStore
from keyvault_server.backends.aws.gathered_reads import MOST_OUT_WITH_SLOW
from keyvault_server.operations import memory
from keyvault_server.operations.memory import (
    GROWTH,
    LOOK_SECONDS,
    MIB,
    QUIET,
    READ_TOGETHER,
    Cycles,
    give_back,
    parts,
    resident,
)
from keyvault_server.operations.settings import Settings


def bound(**settings: object) -> int:
    return sum(size for _, size in parts(Settings.model_validate(settings)))


def test_the_bound_of_the_defaults_is_under_400_mib() -> None:
    assert bound() < 400 * MIB


def test_the_bound_names_what_the_settings_ask_for() -> None:
    named = {backend: dict(parts(Settings(backend=backend))) for backend in ("embedded", "aws")}
    assert "records that were read" in named["embedded"]
    assert "8 Lists" not in named["embedded"]
    assert named["aws"]["8 Lists"] == 48 * MIB
    assert named["aws"]["2 replies that BatchReads hold"] == 68 * MAX_ENVELOPE
    assert (DynamoRecordStore.reads_together, MOST_OUT_WITH_SLOW) == (READ_TOGETHER, 4)
    assert "2 replies that BatchReads hold" not in named["embedded"]
    assert all(size for part in named.values() for size in part.values())


def test_the_bound_follows_the_settings() -> None:
    assert bound(connections=2_000) > bound(connections=1_000)
    assert bound(access_log=False) < bound()
    assert bound(backend="aws", history=1) == bound(backend="aws") > bound(backend="aws", history=0)
    assert bound(history=0) == bound(), "the embedded store makes copies in its database"
    assert bound(connections=0) > bound(), "as many as open files allow"


@pytest.fixture
def collected_by_hand() -> Iterator[None]:
    """Python's own collections would come between."""
    gc.disable()
    yield
    gc.enable()
    gc.unfreeze()


class Left:
    """An object that refers to itself, as a call does to the error that ended it."""

    def __init__(self) -> None:
        self.itself = self


def leave_old_cycle() -> "weakref.ref[Left]":
    """Leave one that collections of young objects do not find."""
    left = Left()
    gc.collect(0)
    gc.collect(1)
    return weakref.ref(left)


def look_at_young_objects(times: int) -> None:
    for _ in range(times):
        gc.collect(0)


@pytest.mark.usefixtures("collected_by_hand")
def test_cycles_are_collected_when_few_objects_come() -> None:
    cycles = Cycles()
    left = leave_old_cycle()
    look_at_young_objects(QUIET + 1)
    cycles.collect_if_quiet()
    assert left() is not None, "a server with calls waits"
    look_at_young_objects(QUIET)
    cycles.collect_if_quiet()
    assert left() is None


@pytest.mark.usefixtures("collected_by_hand")
def test_a_server_without_calls_collects_cycles_once() -> None:
    cycles = Cycles()
    for _ in range(3):
        left = leave_old_cycle()
        cycles.collect_if_quiet()
        assert left() is None
        done = gc.get_stats()[-1]["collections"]
        for _ in range(3):
            cycles.collect_if_quiet()
        assert gc.get_stats()[-1]["collections"] == done


@pytest.mark.slow
@pytest.mark.usefixtures("collected_by_hand")
async def test_memory_is_given_back_once_the_process_has_grown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "LOOK_SECONDS", 0.01)
    trimmed = asyncio.Event()
    loop = asyncio.get_running_loop()

    def trim() -> None:
        loop.call_soon_threadsafe(trimmed.set)

    giving = asyncio.create_task(give_back(trim))
    await asyncio.sleep(0.1)
    assert not trimmed.is_set()
    left = leave_old_cycle()
    assert LOOK_SECONDS > 1
    before = resident()
    held = bytearray(b"x" * (GROWTH + 8 * MIB))
    assert resident() > before + GROWTH
    await asyncio.wait_for(trimmed.wait(), 10)
    assert left() is None
    giving.cancel()
    with suppress(asyncio.CancelledError):
        await giving
    del held
