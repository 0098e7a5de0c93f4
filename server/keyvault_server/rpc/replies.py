"""Replies that were sent and not yet taken: how many bytes, for each connection and together, and since when.

A caller that reads nothing leaves its replies in our memory after the handler has returned. gRPC's done callback comes
when a reply was taken, so until then the reply counts: against its connection, whose next Read is RATE_LIMITED, and
against all. A connection that takes nothing for too long, or has most of what is too much, is cut.

The rule of this file: small replies are not counted; a connection's streams bound them.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from keyvault_server.core.errors import RateLimited
from keyvault_server.rpc.sockets import cut

COUNTED = 4_096
"""Bytes from which on a reply is counted."""
ALL_CONNECTIONS = 24 * 1024 * 1024
"""Bytes that all connections may leave; beyond, the one that leaves most is cut."""
PER_CONNECTION = ALL_CONNECTIONS // 3
"""Bytes that one connection may leave; beyond, its Reads are RATE_LIMITED."""
TAKEN_SECONDS = 10.0
"""How long a reply may be left before its connection is cut."""
LOOK_SECONDS = 1.0

_log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class _Left:
    """What one connection has not taken."""

    size: int = 0
    since: dict[object, float] = field(default_factory=dict)
    """When each of its replies was sent, longest first."""


class Replies:
    """The replies of one server that were not taken."""

    def __init__(
        self, cut: Callable[[str], bool] = cut, seconds: float = TAKEN_SECONDS, most: int = ALL_CONNECTIONS
    ) -> None:
        """`most` is how many bytes all connections may leave; one may leave a third."""
        self.size = 0
        """Bytes of all of them."""
        self.cuts: Counter[str] = Counter(most_replies=0, replies_not_taken=0)
        """Connections that were cut, by reason: they left more than others, or took nothing."""
        self._left: dict[str, _Left] = {}
        self._cut = cut
        self._seconds = seconds
        self._most = most
        self._look: asyncio.TimerHandle | None = None

    def check(self, peer: str, size: int = 1) -> None:
        """Raise RateLimited if this connection leaves too much for another reply of this size."""
        left = self._left.get(peer)
        if left is not None and left.size + size > self._most // 3:
            raise RateLimited

    def send(self, peer: str, size: int) -> Callable[[Any], None]:
        """Count a reply; return what has to be called when it was taken. Raises RateLimited as `check`."""
        self.check(peer, size)
        left = self._left.setdefault(peer, _Left())
        left.size += size
        self.size += size
        reply = object()
        left.since[reply] = asyncio.get_running_loop().time()
        if self._look is None:
            self._look = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._cut_those_that_take_nothing)
        if self.size > self._most:
            self._cut_one(max(self._left, key=lambda peer: self._left[peer].size), "most_replies")

        def taken(_: object) -> None:
            left.size -= size
            self.size -= size
            del left.since[reply]
            if not left.since:
                del self._left[peer]

        return taken

    def _cut_those_that_take_nothing(self) -> None:
        loop = asyncio.get_running_loop()
        for peer, left in list(self._left.items()):
            if loop.time() - next(iter(left.since.values())) >= self._seconds:
                self._cut_one(peer, "replies_not_taken")
        self._look = loop.call_later(LOOK_SECONDS, self._cut_those_that_take_nothing) if self._left else None

    def _cut_one(self, peer: str, why: str) -> None:
        if self._cut(peer):
            self.cuts[why] += 1
            _log.warning("connection cut", extra={"peer": peer, "why": why, "bytes": self._left[peer].size})
