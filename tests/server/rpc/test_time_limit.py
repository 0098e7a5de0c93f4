"""One timer that ends what takes too long, and nothing else."""

import asyncio

import pytest

from keyvault_server.core.errors import DeadlineExceeded, RateLimited
from keyvault_server.rpc.time_limit import TimeLimit


async def work(limit: TimeLimit, seconds: float) -> str:
    with limit:
        await asyncio.sleep(seconds)
    return "done"


async def test_only_what_takes_too_long_is_ended() -> None:
    limit = TimeLimit(0.05, DeadlineExceeded)
    long = [asyncio.create_task(work(limit, 20)) for _ in range(2)]
    quick = [asyncio.create_task(work(limit, 0)) for _ in range(2)]
    assert await asyncio.gather(*quick) == ["done", "done"]
    for task in long:
        with pytest.raises(DeadlineExceeded):
            await asyncio.wait_for(task, 10)
        assert not task.cancelling()
    assert not limit.since
    assert not limit.ended


async def test_a_task_that_is_cancelled_by_others_stays_cancelled() -> None:
    limit = TimeLimit(20, DeadlineExceeded)
    task = asyncio.create_task(work(limit, 20))
    await asyncio.sleep(0)
    limit.end(task, RateLimited())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not limit.ended


async def test_what_finished_as_its_time_ran_out_is_done() -> None:
    """Its task is not cancelled afterwards."""
    limit = TimeLimit(20, DeadlineExceeded)

    async def stubborn() -> str:
        with limit:
            try:
                await asyncio.sleep(20)
            except asyncio.CancelledError:
                return "done"
        return ""

    task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    limit.end(task, RateLimited())
    assert await task == "done"
    assert not task.cancelling()


@pytest.mark.medium
async def test_the_timer_rests_while_nothing_is_under_way() -> None:
    limit = TimeLimit(0.02, DeadlineExceeded)
    for _ in range(2):
        assert await work(limit, 0) == "done"
        await asyncio.sleep(0.03)
        with pytest.raises(DeadlineExceeded):
            await work(limit, 20)
