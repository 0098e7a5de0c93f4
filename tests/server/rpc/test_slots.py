"""Calls beyond what a server works on at a time wait for their turn, and not for ever."""

import asyncio
import gc
import weakref

import pytest

from keyvault_server.core.errors import RateLimited
from keyvault_server.rpc.slots import Slots


async def test_who_waited_longest_is_next() -> None:
    slots, order = Slots(1), []

    async def call(number: int) -> None:
        await slots.take()
        order.append(number)
        await asyncio.sleep(0)
        slots.free()

    await asyncio.wait_for(asyncio.gather(*map(call, range(5))), 10)
    assert order == [0, 1, 2, 3, 4]
    await asyncio.wait_for(slots.take(), 10)


async def test_a_call_that_gets_no_slot_in_time_is_rate_limited() -> None:
    slots = Slots(1, seconds=0.02)
    await slots.take()
    with pytest.raises(RateLimited):
        await asyncio.wait_for(slots.take(), 10)
    slots.free()
    await asyncio.wait_for(slots.take(), 10)


@pytest.mark.medium
async def test_nothing_is_held_of_calls_that_got_no_slot() -> None:
    """While no slot is freed, such as by Lists of a store that hangs, one call after the other may come and go."""
    slots, held = Slots(1, seconds=0.01), weakref.WeakSet[Message]()
    await slots.take()

    async def call() -> None:
        message = Message()
        held.add(message)
        await slots.take()

    async def refusals() -> set[type]:
        async with asyncio.timeout(10):
            return set(map(type, await asyncio.gather(*(call() for _ in range(50)), return_exceptions=True)))

    assert await asyncio.create_task(refusals()) == {RateLimited}
    gc.collect()
    assert not len(held)


class Message:
    """A request, which a call holds while it waits."""


@pytest.mark.parametrize("freed_first", [False, True])
async def test_a_caller_that_leaves_takes_no_slot_along(freed_first: bool) -> None:
    slots = Slots(1)
    await slots.take()
    waiting = asyncio.create_task(slots.take())
    await asyncio.sleep(0)
    if freed_first:
        slots.free()
        waiting.cancel()
    else:
        waiting.cancel()
        slots.free()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await asyncio.wait_for(slots.take(), 10)
    assert slots._free == 0
