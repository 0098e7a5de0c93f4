"""Things that are measured in turns, and the figures of their rounds.

The rule of this file: a ratio is the median of the ratios of rounds that were played one after the other, so that a
noisy machine disturbs both sides alike.
"""

import statistics
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from benchmarks.generator import Round


@dataclass(frozen=True)
class Rival:
    """One row of a table, and how a round of it is played."""

    title: str
    play: Callable[[], Awaitable[Round]]


class Generator(NamedTuple):
    """The most that the load generator did in some rounds."""

    used: float
    """Share of the time that it ran."""
    busy: float
    """Share of the time that it ran or waited for its core."""
    late_seconds: float = 0.0
    """How long after their time calls were sent; 99th percentile."""


class Rounds(list[Round]):
    """The rounds of one rival."""

    def median(self, of: Callable[[Round], float]) -> float:
        """Return the median of a figure."""
        return statistics.median(map(of, self))

    @property
    def generator(self) -> Generator:
        """Return the most that the load generator did."""
        return Generator(
            *(max(of) for of in zip(*((one.used, one.busy, one.late_seconds) for one in self), strict=True))
        )

    @property
    def failed(self) -> float:
        """Return the share of calls that were not answered as expected."""
        return 1 - sum(one.good for one in self) / max(1, sum(one.statuses.total() for one in self))

    @property
    def latency(self) -> str:
        """Return the medians of p50 and p99, in milliseconds."""
        half, most = (self.median(partial(Round.quantile, share=share)) for share in (0.50, 0.99))
        return f"{digits(half)} / {digits(most)}"

    @property
    def per_second(self) -> float:
        """Return the median of good calls a second."""
        return self.median(lambda one: one.per_second)

    @property
    def cpu_microseconds(self) -> float:
        """Return the median of the server's CPU time for a call."""
        return self.median(lambda one: one.cpu_microseconds)


async def in_turns(rivals: Sequence[Rival], rounds: int) -> dict[str, Rounds]:
    """Play a round of each to warm up, and then so many, in turns."""
    for rival in rivals:
        await rival.play()
    played = {rival.title: Rounds() for rival in rivals}
    for number in range(rounds):
        for rival in rivals if number % 2 else rivals[::-1]:
            played[rival.title].append(await rival.play())
    return played


def ratio(ours: Rounds, theirs: Rounds, of: Callable[[Round], float]) -> float:
    """Return the median over the rounds of ours / theirs."""
    return statistics.median(of(mine) / (of(other) or float("inf")) for mine, other in zip(ours, theirs, strict=True))


def digits(number: float) -> str:
    """Return a number with about three digits."""
    if number == float("inf"):
        return "-"
    return f"{number:,.0f}" if number >= 100 else f"{number:.1f}" if number >= 10 else f"{number:.2f}"
