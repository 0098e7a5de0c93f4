"""How many calls are at work at one service, and what becomes of a call whose caller has gone.

The rule of this file: what was sent is waited for, whoever has stopped waiting. The SDK closes the connection of a
call that is cancelled, so that a backend that slows down would get a TLS handshake from every caller who runs out of
patience. What waits for a connection is not sent yet and is dropped at once.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from keyvault_server.backends.aws.breaker import Breaker
from keyvault_server.core.errors import BackendUnavailable

_T = TypeVar("_T")


class NotSent(BackendUnavailable):
    """No request left the server, and another attempt would not either."""


class Connections:
    """At most `number` calls at a time, each of at most `seconds`; one waits `patience` seconds to be among them."""

    def __init__(self, number: int, seconds: float, patience: float, breaker: Breaker) -> None:
        self._free = asyncio.Semaphore(number)
        self._seconds = seconds
        self._patience = patience
        self._breaker = breaker
        self._at_work: set[asyncio.Task[object]] = set()

    async def run(self, call: Callable[[], Awaitable[_T]]) -> _T:
        """Waits for a connection and for the call. Raises NotSent, or what the call raises."""
        try:
            async with asyncio.timeout(self._patience):
                await self._free.acquire()
        except TimeoutError:
            raise NotSent from None
        task = asyncio.create_task(self._send(call))
        self._at_work.add(task)
        task.add_done_callback(self._end)
        await asyncio.wait({task})
        return task.result()

    async def aclose(self) -> None:
        """Ends the calls that nobody waits for any more."""
        for task in self._at_work:
            task.cancel()
        await asyncio.gather(*self._at_work, return_exceptions=True)

    async def _send(self, call: Callable[[], Awaitable[_T]]) -> _T:
        if not self._breaker.lets_through():  # asked only now: it may have opened while the call waited
            raise NotSent
        async with asyncio.timeout(self._seconds):
            with self._breaker.listening():
                return await call()

    def _end(self, task: asyncio.Task[object]) -> None:
        self._at_work.discard(task)
        self._free.release()
        if not task.cancelled():
            task.exception()  # looked at, or asyncio reports it for a caller who has gone
