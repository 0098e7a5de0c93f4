"""The connections of one server: how many may be open, of all peers and of one address, and which are cut beyond that.

gRPC keeps an idle connection for as long as its age allows, and each costs a descriptor and memory. Once a second the
open ones are counted. Beyond a limit some are cut: those without a call in flight first, the newest first, so that
callers that were there before a flood go on working.

The rule of this file: looking takes at most 2 % of the time, however many are open. Between two looks only gRPC's own
limit holds (ConnectionLimits.accepted), which keeps descriptors for ourselves.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from keyvault_server.core.background import in_background
from keyvault_server.rpc import sockets
from keyvault_server.rpc.sockets import Connection, address_of

LOOK_SECONDS = 1.0
LOG_SECONDS = 10.0
"""At most one line is logged in this time."""
_PAUSES = 50
"""The least pause, in times of what the last look took."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class MaxConnections:
    """How many connections may be open."""

    of_port: Mapping[int, int]
    """Maximum for each port that the server listens on; the connections of other ports are left alone."""
    of_address: int = 0
    """Maximum of one peer address, on all ports together; 0: no limit."""


class OpenConnections:
    """The connections of one server."""

    def __init__(self, callers: Callable[[], Iterable[str]], cuts: Counter[str]) -> None:
        """`callers` returns the peers that have a call in flight, as gRPC writes them; `cuts` counts by reason."""
        self.number = 0
        """Open ones at the last look."""
        self._callers = callers
        self._cuts = cuts
        self._cuts.update(all=0, address=0)
        self._sockets = sockets.Connections()
        self._next_line = 0.0
        self._unlogged: Counter[str] = Counter()

    def watching(self, most: MaxConnections) -> AbstractAsyncContextManager[None]:
        """Look once a second while the body runs."""
        return in_background(self._watch(most))

    async def _watch(self, most: MaxConnections) -> None:
        while True:
            started = time.perf_counter()
            try:
                self.look(most)
            except OSError as error:  # no descriptor left: the next look may find one
                _log.warning("cannot count connections", extra={"why": error.strerror})
            await asyncio.sleep(max(LOOK_SECONDS, _PAUSES * (time.perf_counter() - started)))

    def look(self, most: MaxConnections) -> None:
        """Count the connections, and cut those beyond a limit. Raises OSError if no descriptor is left."""
        found = [one for one in self._sockets.look() if one.port in most.of_port]
        self.number = len(found)
        for connection, reason in self._beyond(found, most):
            if connection.cut():
                self.number -= 1
                self._cuts[reason] += 1
                self._unlogged[reason] += 1
        if self._unlogged and time.monotonic() >= self._next_line:
            _log.warning("connections cut", extra={"cut": dict(self._unlogged), "open": self.number})
            self._next_line = time.monotonic() + LOG_SECONDS
            self._unlogged.clear()

    def _beyond(self, found: list[Connection], most: MaxConnections) -> Iterator[tuple[Connection, str]]:
        """Yield the connections beyond a limit, each with the reason."""
        kept_of_port: Counter[int] = Counter()
        kept_of_address: Counter[str] = Counter()
        for one in self._by_worth(found, most):
            host, _ = one.peer
            if most.of_address and kept_of_address[host] >= most.of_address:
                yield one, "address"
            elif kept_of_port[one.port] >= most.of_port[one.port]:
                yield one, "all"
            else:
                kept_of_port[one.port] += 1
                kept_of_address[host] += 1

    def _by_worth(self, found: list[Connection], most: MaxConnections) -> list[Connection]:
        """Return those that have a call in flight first, and of these and of the others the oldest first."""
        limits = [*most.of_port.values(), *([most.of_address] if most.of_address else [])]
        if len(found) <= min(limits, default=0):
            return found
        callers = {address_of(peer) for peer in self._callers()}
        return sorted(found, key=lambda one: one.peer not in callers)
