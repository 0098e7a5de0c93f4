"""A circuit breaker: notices that a backend stops responding, and spares callers the wait for it.

Without it each call would hold its slot until its attempt times out: a KMS that hangs would alone use up all slots,
those of Reads too, which need no KMS. The rule of this file: only silence counts. A backend that fails at once holds
nobody up, so every call asks it; one that answers, whatever it answers, is up.
"""

import asyncio
import logging
from collections.abc import Awaitable
from typing import TypeVar

from botocore.exceptions import ConnectTimeoutError, ReadTimeoutError

SILENCES = 10
"""Requests in a row that time out before the breaker opens."""
PROBE_SECONDS = 0.5
"""Seconds between the single requests that an open breaker lets through; one that is answered closes it."""

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class Breaker:
    """The breaker of one service, which it names in the log."""

    def __init__(self, service: str) -> None:
        self._service = service
        self._silences = 0
        self._next_probe = 0.0

    def lets_through(self) -> bool:
        """Return whether a request may be sent now."""
        now = asyncio.get_running_loop().time()
        if self._silences >= SILENCES and now < self._next_probe:
            return False
        self._next_probe = now + PROBE_SECONDS
        return True

    async def listen(self, request: Awaitable[_T]) -> _T:
        """Await a request and count its outcome. A cancelled one says nothing about the backend."""
        try:
            reply = await request
        except (ConnectTimeoutError, ReadTimeoutError):
            self._silences += 1
            if self._silences == SILENCES:
                details = {"service": self._service}
                _log.error("AWS stopped responding: calls are refused until it answers", extra=details)
            raise
        except Exception:
            self._close()
            raise
        self._close()
        return reply

    def _close(self) -> None:
        if self._silences >= SILENCES:
            _log.warning("AWS answers again", extra={"service": self._service})
        self._silences = 0
