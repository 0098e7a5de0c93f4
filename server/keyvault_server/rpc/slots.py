"""The calls that a server works on at a time: the next ones wait for their turn, first come, first served.

A call that is refused comes back, and to refuse it costs half of what it asked for. So a server that refused whatever
it cannot do at once would do little else under twice the load that it can bear.

The rule of this file: a slot that is freed goes to the call that has waited longest.
"""

import asyncio
from collections import deque

from keyvault_server.core.errors import RateLimited

WAIT_SECONDS = 2.0
"""Longest wait for a slot; then the call is RATE_LIMITED."""


class Slots:
    """The slots of one server. Belongs to one event loop."""

    def __init__(self, most: int, seconds: float = WAIT_SECONDS) -> None:
        """`most` calls have a slot at a time; the next ones wait so many seconds."""
        self._free = most
        self._seconds = seconds
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def take(self) -> None:
        """Return with a slot. Raises RateLimited if none came free in time."""
        if self._free:
            self._free -= 1
            return
        loop = asyncio.get_running_loop()
        turn = loop.create_future()
        self._waiting.append(turn)
        timer = loop.call_later(self._seconds, _refuse, turn)
        try:
            await turn
        except RateLimited:
            self._waiting.remove(turn)  # its error holds the call's frames, and with them the request
            raise
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.free()  # it came at the same moment
            raise
        finally:
            timer.cancel()

    async def __aenter__(self) -> None:
        await self.take()

    async def __aexit__(self, *_error: object) -> None:
        self.free()

    def free(self) -> None:
        """Give a slot back."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1


def _refuse(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_exception(RateLimited())
