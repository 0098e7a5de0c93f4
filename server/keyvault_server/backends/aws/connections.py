"""How many calls to one service are in-flight, and what becomes of a call whose caller has left.

The rule of this file: a request that was sent is awaited even if its caller has left. The SDK closes the connection of
a cancelled call, so a backend that slows down would get a TLS handshake from every caller that runs out of patience. A
call that still waits for a connection has sent nothing and is dropped at once.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from keyvault_server.backends.aws.breaker import Breaker
from keyvault_server.backends.aws.faults import NotDone

_T = TypeVar("_T")


class NotSent(NotDone):
    """No request left the server, and another attempt would not send one either."""


class ConnectionPool:
    """At most `number` in-flight calls, each of at most `seconds`; a call waits `patience` seconds for a place."""

    def __init__(self, number: int, seconds: float, patience: float, breaker: Breaker) -> None:
        self._free = asyncio.Semaphore(number)
        self._seconds = seconds
        self.patience = patience
        self._breaker = breaker
        self._in_flight: set[asyncio.Task[object]] = set()

    async def run(self, call: Callable[[], Awaitable[_T]]) -> _T:
        """Wait for a connection, make the call, return its result. Raises NotSent, or what the call raises."""
        try:
            async with asyncio.timeout(self.patience):
                await self._free.acquire()
        except TimeoutError:
            raise NotSent from None
        task = asyncio.create_task(self._send(call))
        self._in_flight.add(task)
        task.add_done_callback(self._release)
        await asyncio.wait({task})  # unlike `await task`, does not pass the caller's cancellation on
        return task.result()

    async def aclose(self) -> None:
        """Cancel the calls that are still in-flight: their callers have left."""
        for task in self._in_flight:
            task.cancel()
        await asyncio.gather(*self._in_flight, return_exceptions=True)

    async def _send(self, call: Callable[[], Awaitable[_T]]) -> _T:
        if not self._breaker.lets_through():  # asked only now: it may have opened while the call waited
            raise NotSent
        async with asyncio.timeout(self._seconds):
            with self._breaker.listening():
                return await call()

    def _release(self, task: asyncio.Task[object]) -> None:
        self._in_flight.discard(task)
        self._free.release()
        if not task.cancelled():
            task.exception()  # retrieved here, or asyncio logs it as never retrieved if the caller has left
