"""What refused calls cost: up to a rate they are answered at once, beyond it each waits for its turn.

A refused call costs the event loop about as much as a Read, spends no quota, and comes back at once if its author wants
it to. So refusals have rates of their own: for each identity, for each address of callers without one, and for all of
those together. A caller that goes beyond them keeps its own calls waiting, and the loop free for others.

The rule of this file: only the answer waits; nothing that others need is held while it does.
"""

import asyncio
from collections import Counter
from collections.abc import Callable

from keyvault_server.access.quotas import REFUSED, Quotas, Rate
from keyvault_server.rpc.sockets import cut

ADDRESS = Rate(per_second=50, burst=100)
"""Refusals of callers without an identity from one address."""
UNIDENTIFIED = Rate(per_second=200, burst=500)
"""Refusals of all callers without an identity, or with one that the policy does not know."""
LONGEST_SECONDS = 5.0
"""Longest wait of a refused call."""
_GOLDEN = 0.618_034
"""Multiples of the golden ratio, modulo 1, lie evenly, however many there are."""
MOST = 2_000
"""Refused calls that may wait; the connection of the next one is cut."""


class Refusals:
    """The refused calls of one server."""

    def __init__(
        self, cuts: Counter[str], quotas: Quotas | None = None, cut: Callable[[str], bool] = cut, most: int = MOST
    ) -> None:
        """`cuts` counts the connections that are cut, by reason; `most` refused calls may wait."""
        self._quotas = Quotas() if quotas is None else quotas  # an empty one is false
        self._cuts = cuts
        self._cuts.update(refusals=0)
        self._cut = cut
        self._most = most
        self._waiting: set[asyncio.Future[None]] = set()
        self._closed = False
        self._part = 0.0

    def __len__(self) -> int:
        """Return the number of refused calls that wait for their turn."""
        return len(self._waiting)

    async def wait_turn(self, identity: str, rate: Rate | None, peer: str) -> None:
        """Return when the next refusal of this caller may be answered; at once after `close`.

        `rate` is the caller's own; None for one that the policy does not know.
        """
        seconds = self.turn(identity, rate, host_of(peer))
        if not seconds or self._closed:
            return
        if len(self._waiting) < self._most:
            await self._wait(seconds)
        elif self._cut(peer):
            self._cuts["refusals"] += 1

    def turn(self, identity: str, rate: Rate | None, address: str) -> float:
        """Return the seconds until the next refusal of this caller may be answered, and count it."""
        if rate is not None:
            return self._spread(self._quotas.draw(identity, REFUSED, rate, LONGEST_SECONDS))
        one = self._quotas.draw(address, "address", ADDRESS, LONGEST_SECONDS)
        return self._spread(max(one, self._quotas.draw("", "unidentified", UNIDENTIFIED, LONGEST_SECONDS)))

    def close(self) -> None:
        """Let nobody wait from now on: the server stops."""
        self._closed = True
        for turn in self._waiting:
            _set(turn)

    def _spread(self, seconds: float) -> float:
        """Shorten the longest wait by up to half, each by another part: calls that waited for it would be one wave."""
        if seconds < LONGEST_SECONDS:
            return seconds
        self._part = (self._part + _GOLDEN) % 1
        return LONGEST_SECONDS * (1 - self._part / 2)

    async def _wait(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        turn = loop.create_future()
        timer = loop.call_later(seconds, _set, turn)
        self._waiting.add(turn)
        try:
            await turn
        finally:
            timer.cancel()
            self._waiting.discard(turn)


def _set(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_result(None)


def host_of(peer: str) -> str:
    """Return a peer without its port, as gRPC writes it: the same for all connections of one machine."""
    return peer.rpartition(":")[0]
