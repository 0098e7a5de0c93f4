"""Group commit: items that wait to be made durable are gathered into batches, and each batch needs one fsync.

The rules of this file: one batch at a time, in the order in which items were added. A caller awaits its item in its own
way; the item is committed even if its caller has left.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

GATHER_SECONDS = 0.005
"""Maximum seconds that a batch waits until it is as long as the last one; items that come singly never wait."""

_T = TypeVar("_T")


class GroupCommit(Generic[_T]):
    """Batches of one kind of item. Belongs to one event loop."""

    def __init__(
        self, batch_length: Callable[[Sequence[_T]], int], commit: Callable[[list[_T]], Awaitable[None]]
    ) -> None:
        """Take `batch_length`, which says how many waiting items make the next batch (at least 1), and `commit`.

        `commit` makes a batch durable and must not raise.
        """
        self._batch_length = batch_length
        self._commit = commit
        self._waiting: list[_T] = []
        self._last_batch = 1
        self._gathered = asyncio.Event()
        self._running: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        """Return how many items wait and are not in a batch yet."""
        return len(self._waiting)

    def add(self, item: _T) -> None:
        """Let this item wait for the next batch."""
        self._waiting.append(item)
        if len(self._waiting) >= self._last_batch:
            self._gathered.set()
        if self._running is None:
            self._running = asyncio.create_task(self._run())

    async def finish(self) -> None:
        """Return when nothing waits any more."""
        if self._running:
            await self._running

    async def _run(self) -> None:
        try:
            while self._waiting:
                await self._gather()
                count = self._last_batch = self._batch_length(self._waiting)
                batch, self._waiting = self._waiting[:count], self._waiting[count:]
                await self._commit(batch)
        finally:
            self._running = None

    async def _gather(self) -> None:
        """Wait for a group: otherwise, under load, each fsync would serve only the item that came first."""
        if len(self._waiting) < self._last_batch:
            self._gathered.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GATHER_SECONDS):
                    await self._gathered.wait()
