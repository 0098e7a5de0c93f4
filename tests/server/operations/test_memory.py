"""The memory that clients can make a server take: a sum that follows the settings, and memory that is given back."""

import asyncio
from contextlib import suppress

import pytest

from keyvault_server.operations import memory
from keyvault_server.operations.memory import GROWTH, LOOK_SECONDS, MIB, give_back, parts, resident
from keyvault_server.operations.settings import Settings


def bound(**settings: object) -> int:
    return sum(size for _, size in parts(Settings.model_validate(settings)))


def test_the_bound_of_the_defaults_is_under_400_mib() -> None:
    assert bound() < 400 * MIB


def test_the_bound_follows_the_settings() -> None:
    assert bound(connections=2_000) > bound(connections=1_000)
    assert bound(access_log=False) < bound()
    assert bound(connections=0) > bound(), "as many as open files allow"


@pytest.mark.slow
async def test_memory_is_given_back_once_the_process_has_grown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "LOOK_SECONDS", 0.01)
    trimmed = asyncio.Event()
    loop = asyncio.get_running_loop()

    def trim() -> None:
        loop.call_soon_threadsafe(trimmed.set)

    giving = asyncio.create_task(give_back(trim))
    await asyncio.sleep(0.1)
    assert not trimmed.is_set()
    assert LOOK_SECONDS > 1
    before = resident()
    held = bytearray(b"x" * (GROWTH + 8 * MIB))
    assert resident() > before + GROWTH
    await asyncio.wait_for(trimmed.wait(), 10)
    giving.cancel()
    with suppress(asyncio.CancelledError):
        await giving
    del held
