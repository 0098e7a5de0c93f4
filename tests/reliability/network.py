"""An unreliable network in virtual time. Every exchange gets its fate from one seeded generator."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar

from keyvault_server.core.errors import BackendThrottled, BackendUnavailable, VaultError
from keyvault_server.core.ports import HeadChanged

HOP = 0.002
"""Mean seconds of one way between a server and a backend, or a client and a server."""
BACKEND_TIMEOUT = 0.05
"""Seconds after which a server gives a backend up."""
CALL_TIMEOUT = 0.15
"""Seconds after which a client gives a server up."""
LATE = 0.5
"""A message that is late comes by so many seconds after it was given up, at most."""

_T = TypeVar("_T")


class Fate(Enum):
    """What becomes of one exchange of a request and a reply."""

    FINE = "fine"
    SLOW = "slow"
    REQUEST_LOST = "request lost"
    REPLY_LOST = "reply lost"
    LATE = "landed late"
    TWICE = "landed twice"
    REFUSED = "refused at once"


CALL_TROUBLES = (Fate.SLOW, Fate.REQUEST_LOST, Fate.REPLY_LOST, Fate.LATE, Fate.REFUSED)
"""A call never lands twice: gRPC repeats only what no server saw, and a client that repeats itself makes two calls."""
BACKEND_TROUBLES = (*CALL_TROUBLES, Fate.TWICE)
"""A write may land twice: whatever stands between may repeat it."""


@dataclass(frozen=True, slots=True)
class Weather:
    """How unreliable all is."""

    trouble: float
    """The chance that an exchange is not fine."""
    crashes: float
    """Crashes a second."""


class Network:
    """Exchanges of request and reply. Every message that is under way gets its fate from the seeded generator."""

    def __init__(self, rng: random.Random, weather: Weather) -> None:
        self.rng = rng
        self.met: Counter[str] = Counter()
        """How often something was met, for the report."""
        self._weather = weather
        self._under_way: set[asyncio.Task[None]] = set()

    def fate(self, troubles: Sequence[Fate]) -> Fate:
        """Of the next exchange: fine, or one of these."""
        if self.rng.random() >= self._weather.trouble:
            return Fate.FINE
        fate = self.rng.choice(troubles)
        self.met[fate.value] += 1
        return fate

    async def hop(self, fate: Fate = Fate.FINE) -> None:
        """The time of one way."""
        await asyncio.sleep(self.rng.expovariate(1 / HOP) + (10 * HOP if fate is Fate.SLOW else 0))

    def later(self, effect: Callable[[], Awaitable[Any]], timeout: float) -> None:
        """Lets a message arrive when its sender has given it up; its reply, whatever it is, reaches nobody."""

        async def arrive() -> None:
            await asyncio.sleep(timeout + self.rng.uniform(0, LATE))
            await regardless(effect())

        self.background(arrive())

    def background(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs on its own; `quiet` waits for it."""
        task = asyncio.create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def quiet(self) -> None:
        """Returns when nothing is under way any more."""
        while self._under_way:
            await asyncio.wait(self._under_way)

    async def backend(self, effect: Callable[[], Awaitable[_T]]) -> _T:
        """One call of a server to a backend. Raises what the backend raises, BackendUnavailable, BackendThrottled."""
        fate = self.fate(BACKEND_TROUBLES)
        await self._request(effect, fate)
        if fate is Fate.REFUSED:
            raise BackendThrottled
        if fate in (Fate.LATE, Fate.TWICE):
            self.later(effect, BACKEND_TIMEOUT)
        if fate in (Fate.FINE, Fate.SLOW, Fate.TWICE):
            try:
                return await effect()
            finally:
                await self.hop(fate)
        if fate is Fate.REPLY_LOST:
            await regardless(effect())
        await asyncio.sleep(BACKEND_TIMEOUT)
        raise BackendUnavailable

    async def _request(self, effect: Callable[[], Awaitable[Any]], fate: Fate) -> None:
        """The way there. A sender that crashes or gives up on the way cannot call back what was sent."""
        try:
            await self.hop(fate)
        except asyncio.CancelledError:
            if self.rng.random() < 0.5:
                self.later(effect, 0)
            raise


async def regardless(effect: Awaitable[Any]) -> None:
    """Awaits it, whatever it answers."""
    try:
        await effect
    except (HeadChanged, VaultError):
        return
