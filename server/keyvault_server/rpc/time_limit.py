"""A time limit for all calls of a kind, with one timer for all of them.

`asyncio.timeout` sets and cancels a timer for each, which costs a Read a twentieth of its time.

The rule of this file: a task is cancelled at most once, and any other cancellation of it is obeyed.
"""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Any

from keyvault_server.core.errors import VaultError

LOOK_SECONDS = 1.0
"""Longest time between two looks for what is overdue, a quarter of a shorter limit."""


class TimeLimit:
    """What is under way and may take only so long. Belongs to one event loop."""

    def __init__(self, seconds: float, late: Callable[[], VaultError]) -> None:
        """`late` makes the error of what takes longer than `seconds`."""
        self.since: dict[asyncio.Task[Any], float] = {}
        """When each task began, longest first."""
        self.ended: dict[asyncio.Task[Any], VaultError] = {}
        """Those of them that were cancelled here, and what their callers are answered."""
        self._seconds = seconds
        self._every = min(LOOK_SECONDS, seconds / 4)
        self._late = late
        self._look: asyncio.TimerHandle | None = None

    def __enter__(self) -> None:
        """Begin what the running task does now."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        self.since[task] = loop.time()
        if self._look is None:
            self._look = loop.call_later(self._every, self._end_overdue)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Raise the error with which it was ended, unless somebody else cancelled the task too."""
        task = asyncio.current_task()
        assert task is not None
        del self.since[task]
        if not self.ended:
            return
        ended = self.ended.pop(task, None)
        if ended is not None and not task.uncancel() and kind is asyncio.CancelledError:
            raise ended from None

    def end(self, task: asyncio.Task[Any], error: VaultError) -> bool:
        """End what this task does with this error; return False if it has ended already."""
        self.ended[task] = error
        return task.cancel()

    def look(self, now: float) -> None:
        """End what is overdue."""
        for task, since in self.since.items():
            if now - since < self._seconds:
                break
            if task not in self.ended:
                self.end(task, self._late())

    def _end_overdue(self) -> None:
        loop = asyncio.get_running_loop()
        self.look(loop.time())
        self._look = loop.call_later(self._every, self._end_overdue) if self.since else None
