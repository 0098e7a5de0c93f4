"""Notices that a backend says nothing any more, and spares callers the wait for it.

Without it each call would hold its place for as long as silence is borne: a silent KMS alone would use up the places of
all calls, of Reads too, which need no KMS. The rule of this file: only silence counts. A backend that fails at once
holds nobody up and is asked by every call; one that answers anything is there.
"""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from botocore.exceptions import ConnectTimeoutError, ReadTimeoutError

SILENCES = 10
"""Requests in a row that have to end in silence."""
PROBE_SECONDS = 0.5
"""How often one request is let through then: one that is answered ends it."""

_log = logging.getLogger(__name__)


class Breaker:
    """Of one service, which is named in the log."""

    def __init__(self, service: str) -> None:
        self._service = service
        self._silences = 0
        self._next_probe = 0.0

    def lets_through(self) -> bool:
        """Whether a request may be sent now."""
        now = asyncio.get_running_loop().time()
        if self._silences >= SILENCES and now < self._next_probe:
            return False
        self._next_probe = now + PROBE_SECONDS
        return True

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Round each request that is sent. One that is cancelled says nothing of the backend."""
        try:
            yield
        except (ConnectTimeoutError, ReadTimeoutError):
            self._silences += 1
            if self._silences == SILENCES:
                _log.error("AWS is silent: calls are refused until it answers", extra={"service": self._service})
            raise
        except Exception:
            self._heard()
            raise
        else:
            self._heard()

    def _heard(self) -> None:
        if self._silences >= SILENCES:
            _log.warning("AWS answers again", extra={"service": self._service})
        self._silences = 0
