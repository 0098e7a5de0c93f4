"""How long lines may wait to be written, with one timer for all of them.

`asyncio.timeout` sets and cancels a timer for each, which costs an audited Read a thirtieth of its time.

The rule of this file: a wait ends at most LOOK_SECONDS late, or a quarter of a shorter patience.
"""

import asyncio
from typing import Any

from keyvault_server.core.errors import AuditUnavailable

LOOK_SECONDS = 1.0
"""Longest time between two looks for what is overdue."""


class Patience:
    """The waits of one log. Belongs to one event loop."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._every = min(LOOK_SECONDS, seconds / 4)
        self._since: dict[asyncio.Future[Any], float] = {}
        """When each wait began, longest first."""
        self._look: asyncio.TimerHandle | None = None

    async def wait(self, answer: "asyncio.Future[int]") -> int:
        """Return the answer. Raises AuditUnavailable if it takes too long."""
        loop = asyncio.get_running_loop()
        self._since[answer] = loop.time()
        if self._look is None:
            self._look = loop.call_later(self._every, self._end_overdue)
        try:
            return await answer
        finally:
            del self._since[answer]

    def close(self) -> None:
        """Look no more: nothing waits."""
        if self._look is not None:
            self._look.cancel()
            self._look = None

    def _end_overdue(self) -> None:
        loop = asyncio.get_running_loop()
        for answer, since in self._since.items():
            if loop.time() - since < self._seconds:
                break
            if not answer.done():
                answer.set_exception(AuditUnavailable())
        self._look = loop.call_later(self._every, self._end_overdue) if self._since else None
