"""Lets worker threads finish while the event loop is busy.

A thread that comes back from the disk needs the interpreter's lock. A busy event loop lets go of it at every system
call, but takes it back so soon that on one core the thread never runs: a COMMIT then lasts as long as the load does
(measured: 3.2 s with 64 Reads in flight, and nearly all mutations were refused).

The rule of this file: the event loop steps back only for work that takes longer than a disk usually does, and for less
than a tenth of its time.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

LATE_SECONDS = 0.01
"""How long work takes before the event loop steps back for it."""
EVERY_SECONDS = 0.001
"""Time between two steps back; for old work, such as on a disk that hangs, a hundredth of its age."""
STEP_SECONDS = 0.0001

_P = ParamSpec("_P")
_T = TypeVar("_T")


class SteppingBack:
    """The unfinished work of one pool of threads. Belongs to one event loop."""

    def __init__(self) -> None:
        self._since: dict[Future[Any], float] = {}
        """When each piece of work was handed over, longest first."""
        self._next: asyncio.TimerHandle | None = None

    def watch(self, work: Future[Any]) -> None:
        """Step back for this work, if it is late, until it is done."""
        loop = asyncio.get_running_loop()
        self._since[work] = loop.time()
        if self._next is None:
            self._next = loop.call_later(LATE_SECONDS, self._step_back)

    def _step_back(self) -> None:
        loop = asyncio.get_running_loop()
        self._since = {work: since for work, since in self._since.items() if not work.done()}
        if not self._since:
            self._next = None
            return
        age = loop.time() - next(iter(self._since.values()))
        if age >= LATE_SECONDS:
            time.sleep(STEP_SECONDS)  # lets go of the lock and of the core
        self._next = loop.call_later(max(EVERY_SECONDS, LATE_SECONDS - age, age / 100), self._step_back)


class Workers(ThreadPoolExecutor):
    """Threads for which the event loop steps back; work is handed over on the loop's thread alone."""

    def __init__(self, max_workers: int | None = None, name: str = "") -> None:
        super().__init__(max_workers, name)
        self._stepping_back = SteppingBack()

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """See Executor."""
        work = super().submit(fn, *args, **kwargs)
        self._stepping_back.watch(work)
        return work
