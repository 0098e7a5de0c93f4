"""Group commit: what waits to be made durable is gathered, and goes to the disk together, many to an fsync.

The rules of this file: batches follow each other, none beside another, and what came first goes first. Whoever adds
something waits for it in their own way, and what waits is committed even if they are gone.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

GATHER_SECONDS = 0.005
"""How long a batch waits at most for as much as the last one had; what comes one by one never waits."""

_T = TypeVar("_T")


class GroupCommit(Generic[_T]):
    """Belongs to one event loop."""

    def __init__(self, fitting: Callable[[Sequence[_T]], int], commit: Callable[[list[_T]], Awaitable[None]]) -> None:
        """`fitting` says how many of what waits make the next batch, at least 1; `commit` may not raise."""
        self._fitting = fitting
        self._commit = commit
        self._waiting: list[_T] = []
        self._last_batch = 1
        self._gathered = asyncio.Event()
        self._running: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        """What waits and is in no batch yet."""
        return len(self._waiting)

    def add(self, item: _T) -> None:
        """Lets this wait for the next batch."""
        self._waiting.append(item)
        if len(self._waiting) >= self._last_batch:
            self._gathered.set()
        if self._running is None:
            self._running = asyncio.create_task(self._run())

    async def finish(self) -> None:
        """Returns when nothing waits any more."""
        if self._running:
            await self._running

    async def _run(self) -> None:
        try:
            while self._waiting:
                await self._gather()
                count = self._last_batch = self._fitting(self._waiting)
                batch, self._waiting = self._waiting[:count], self._waiting[count:]
                await self._commit(batch)
        finally:
            self._running = None

    async def _gather(self) -> None:
        """A group commit needs a group: under load each fsync would else serve the one that came first."""
        if len(self._waiting) < self._last_batch:
            self._gathered.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GATHER_SECONDS):
                    await self._gathered.wait()
