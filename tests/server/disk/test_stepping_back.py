"""Threads that come back from the disk while the event loop is busy."""

import asyncio
import threading
import time
from concurrent.futures import Future

import pytest

from keyvault_server.disk import stepping_back
from keyvault_server.disk.disk_thread import DiskThread
from keyvault_server.disk.stepping_back import SteppingBack, Workers


def sleeps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the list to which the event loop's sleeps are added from now on."""
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    return slept


async def watched_until_done() -> SteppingBack:
    """Return what has watched a piece of work that was done before anybody looked."""
    watched = SteppingBack()
    done: Future[None] = Future()
    done.set_result(None)
    watched.watch(done)
    await asyncio.sleep(0.05)
    return watched


@pytest.mark.medium
async def test_the_loop_steps_back_for_late_work(monkeypatch: pytest.MonkeyPatch) -> None:
    slept = sleeps(monkeypatch)
    work: Future[None] = Future()
    SteppingBack().watch(work)
    await asyncio.sleep(0.2)
    assert len(slept) >= 5
    assert set(slept) == {stepping_back.STEP_SECONDS}
    work.set_result(None)


async def test_the_loop_goes_on_once_the_work_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    slept = sleeps(monkeypatch)
    await watched_until_done()
    assert not slept


@pytest.mark.medium
async def test_work_after_idle_time_is_watched_too(monkeypatch: pytest.MonkeyPatch) -> None:
    slept = sleeps(monkeypatch)
    watched = await watched_until_done()
    second: Future[None] = Future()
    watched.watch(second)
    await asyncio.sleep(0.1)
    assert slept
    second.set_result(None)


@pytest.mark.medium
@pytest.mark.parametrize("kind", ["executor", "disk thread"])
async def test_both_kinds_of_threads_are_waited_for(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    slept = sleeps(monkeypatch)
    ready = threading.Event()
    if kind == "executor":
        workers = Workers(1, "test")
        work = asyncio.get_running_loop().run_in_executor(workers, ready.wait, 5)
    else:
        thread = DiskThread("test")
        work = asyncio.ensure_future(thread.run(lambda: ready.wait(5)))
    await asyncio.sleep(0.1)
    assert slept
    ready.set()
    assert await work
    if kind == "executor":
        workers.shutdown()
    else:
        thread.end()
