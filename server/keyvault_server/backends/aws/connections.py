"""How many calls to one service are in-flight, and what becomes of a call whose caller has left.

The rule of this file: a request that was sent is awaited even if its caller has left. The SDK closes the connection of
a cancelled call, so a backend that slows down would get a TLS handshake from every caller that runs out of patience. A
call that still waits for a connection has sent nothing and is dropped at once.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

from keyvault_server.backends.aws.breaker import Breaker
from keyvault_server.backends.aws.faults import NotDone

_T = TypeVar("_T")


class NotSent(NotDone):
    """No request left the server, and another attempt would not send one either."""


class ConnectionPool:
    """At most `number` in-flight calls; a call waits `patience` seconds for a place.

    A call whose caller has left, or had no more time, has `seconds` more.
    """

    def __init__(self, number: int, seconds: float, patience: float, breaker: Breaker) -> None:
        self._free = asyncio.Semaphore(number)
        self._seconds = seconds
        self.patience = patience
        self._breaker = breaker
        self._in_flight: set[asyncio.Task[Any]] = set()

    async def run(self, call: Callable[[], Awaitable[_T]], until: float) -> _T:
        """Wait for a connection, make the call, return its result.

        Raises NotSent, TimeoutError at `until` of the loop's clock, or what the call raises.
        """
        await self._take_place(until)
        loop = asyncio.get_running_loop()
        in_time = loop.create_future()
        task = loop.create_task(self._send(call))
        self._in_flight.add(task)
        limit = loop.call_at(until, self._leave, in_time, task)
        task.add_done_callback(partial(self._end, in_time, limit))
        if not await in_time:  # unlike `await task`, does not pass the caller's cancellation on
            raise TimeoutError
        return task.result()

    async def aclose(self) -> None:
        """Cancel the calls that are still in-flight: their callers have left."""
        for task in self._in_flight:
            task.cancel()
        await asyncio.gather(*self._in_flight, return_exceptions=True)

    async def _take_place(self, until: float) -> None:
        if not self._free.locked():  # a timer would cost more than the place
            await self._free.acquire()
            return
        patient_until = asyncio.get_running_loop().time() + self.patience
        try:
            async with asyncio.timeout_at(min(patient_until, until)):
                await self._free.acquire()
        except TimeoutError:
            if until < patient_until:
                raise
            raise NotSent from None

    async def _send(self, call: Callable[[], Awaitable[_T]]) -> _T:
        if not self._breaker.lets_through():  # asked only now: it may have opened while the call waited
            raise NotSent
        return await self._breaker.listen(call())

    def _leave(self, in_time: "asyncio.Future[bool]", task: "asyncio.Task[Any]") -> None:
        """Let the caller go, if it is still there; the task comes to an end too."""
        if not in_time.done():
            in_time.set_result(False)
        asyncio.get_running_loop().call_later(self._seconds, task.cancel)

    def _end(self, in_time: "asyncio.Future[bool]", limit: asyncio.TimerHandle, task: "asyncio.Task[Any]") -> None:
        limit.cancel()
        self._in_flight.discard(task)
        self._free.release()
        if not task.cancelled():
            task.exception()  # retrieved here, or asyncio logs it as never retrieved if the caller has left
        if not in_time.done():
            in_time.set_result(True)
