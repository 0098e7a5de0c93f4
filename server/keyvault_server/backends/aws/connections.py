"""How many calls are at work at one service, and what becomes of a call whose caller has gone.

The rule of this file: what was sent is waited for, whoever has stopped waiting. The SDK closes the connection of a
call that is cancelled, so that a backend that slows down would get a TLS handshake from every caller who runs out of
patience. What waits for a connection is not sent yet and is dropped at once.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

_T = TypeVar("_T")


class Connections:
    """At most so many calls at a time, of at most so many seconds each."""

    def __init__(self, number: int, seconds: float) -> None:
        self._free = asyncio.Semaphore(number)
        self._seconds = seconds
        self._at_work: set[asyncio.Task[object]] = set()

    async def run(self, call: Callable[[], Awaitable[_T]]) -> _T:
        """Waits for a connection, without limit, and for the call. Raises what the call raises, or TimeoutError."""
        await self._free.acquire()
        task = asyncio.create_task(self._bounded(call))
        self._at_work.add(task)
        task.add_done_callback(self._end)
        await asyncio.wait({task})
        return task.result()

    async def aclose(self) -> None:
        """Ends the calls that nobody waits for any more."""
        for task in self._at_work:
            task.cancel()
        await asyncio.gather(*self._at_work, return_exceptions=True)

    async def _bounded(self, call: Callable[[], Awaitable[_T]]) -> _T:
        async with asyncio.timeout(self._seconds):
            return await call()

    def _end(self, task: asyncio.Task[object]) -> None:
        self._at_work.discard(task)
        self._free.release()
        if not task.cancelled():
            task.exception()  # looked at, or asyncio reports it for a caller who has gone
