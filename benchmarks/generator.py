"""The load generator: closed and open loops of calls, and what a round of them took.

A closed loop keeps a number of calls in flight: it finds how many calls a server makes. An open loop sends calls at
random times (Poisson) at a given rate, whether or not earlier ones were answered, as independent users do: it finds
latency below capacity, and goodput above it.

The rule of this file: a generator that was itself the limit measured nothing. Each round counts how long the generator
ran or waited for its core; over 90 % of the time, or more than 5 ms late with its calls, the round is not `trusted`.
"""

import asyncio
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Protocol

from benchmarks.http2 import BROKEN, Call

BUSY = 0.90
LATE_SECONDS = 0.005
STREAMS = 100
"""Most calls in flight on one connection: what the server allows."""
NOT_SENT = -2
"""Status of a call that found no free place on any connection."""
_DRAIN_SECONDS = 15.0


class Link(Protocol):
    """A connection that calls can be sent on."""

    closed: bool

    def __len__(self) -> int:
        """Return the number of calls in flight."""

    def call(self, request: bytes, done: Callable[[Call], None], slot: int = 0) -> None:
        """Send a call."""

    def close(self) -> None:
        """End the connection at once."""


@dataclass
class Round:
    """What one round of calls took."""

    seconds: float = 0.0
    """From the first call until the last one was due."""
    statuses: Counter[int] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)
    """Seconds of the calls with the expected status."""
    expected: int = 0
    cpu_seconds: float = 0.0
    """Of the server's process."""
    busy: float = 0.0
    """Share of the time that the generator ran or waited for its core."""
    used: float = 0.0
    """Share of the time that the generator ran."""
    late_seconds: float = 0.0
    """99th percentile of how long after its time a call was sent."""

    @property
    def good(self) -> int:
        """Return how many calls had the expected status."""
        return self.statuses[self.expected]

    @property
    def per_second(self) -> float:
        """Return the good calls a second."""
        return self.good / self.seconds

    @property
    def cpu_microseconds(self) -> float:
        """Return the server's CPU time for a good call."""
        return self.cpu_seconds / self.good * 1e6 if self.good else float("inf")

    def quantile(self, share: float) -> float:
        """Return a latency of the good calls, in milliseconds."""
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1e3 if ordered else float("inf")

    @property
    def trusted(self) -> bool:
        """Return whether the server, and not the generator, decided the figures."""
        return self.busy <= BUSY and self.late_seconds <= LATE_SECONDS


class _Busy:
    """How long this thread ran or waited for its core."""

    def __init__(self) -> None:
        self._began, (self._ran, self._waited) = time.perf_counter(), self._now()

    @staticmethod
    def _now() -> tuple[float, float]:
        ran, waited, _ = Path("/proc/thread-self/schedstat").read_text().split()
        return int(ran) / 1e9, int(waited) / 1e9

    def note(self, took: Round) -> None:
        """Write the shares of the time since the beginning into a round."""
        seconds, (ran, waited) = time.perf_counter() - self._began, self._now()
        took.used = (ran - self._ran) / seconds
        took.busy = took.used + (waited - self._waited) / seconds


async def closed_loop(
    links: Sequence[Link],
    request: Callable[[int], bytes],
    *,
    in_flight: int,
    seconds: float,
    cpu: Callable[[], float],
    expected: int = 0,
    calls: int | None = None,
) -> Round:
    """Keep so many calls in flight for a time, or until so many were sent. `request` makes the next one of a slot."""
    took, done = Round(expected=expected), asyncio.get_running_loop().create_future()
    left, unsent = in_flight, calls if calls is not None else 1 << 62
    began, busy, before = time.perf_counter(), _Busy(), cpu()
    until = began + seconds

    def again(call: Call) -> None:
        took.statuses[call.status] += 1
        if call.status == expected:
            took.latencies.append(call.seconds)
        send(call.slot, ends=time.perf_counter() >= until or call.status == BROKEN)

    def send(slot: int, *, ends: bool = False) -> None:
        nonlocal unsent, left
        if unsent > 0 and not ends:
            unsent -= 1
            links[slot % len(links)].call(request(slot), again, slot)
            return
        left -= 1
        if not left:
            done.set_result(None)

    for slot in range(in_flight):
        send(slot)
    await done
    busy.note(took)
    took.seconds, took.cpu_seconds = time.perf_counter() - began, cpu() - before
    return took


async def open_loop(
    links: Sequence[Link],
    request: Callable[[int], bytes],
    *,
    per_second: float,
    seconds: float,
    cpu: Callable[[], float],
    expected: int = 0,
    seed: int = 1,
) -> Round:
    """Send calls at random times at this rate; a call that is answered after the time does not count."""
    took, late = Round(expected=expected), list[float]()
    chance, turns = random.Random(seed), cycle(links)
    busy, before, began = _Busy(), cpu(), time.perf_counter()
    due = began + chance.expovariate(per_second)
    until = began + seconds

    def ended(call: Call) -> None:
        if call.began + call.seconds <= until:
            took.statuses[call.status] += 1
            if call.status == expected:
                took.latencies.append(call.seconds)

    while due < until:
        now = time.perf_counter()
        while due <= now and due < until:
            late.append(now - due)
            link = next((one for one, _ in zip(turns, links, strict=False) if len(one) < STREAMS), None)
            if link is None:
                took.statuses[NOT_SENT] += 1
            else:
                link.call(request(0), ended)
            due += chance.expovariate(per_second)
        # uvloop would round less than that to nothing, and spin.
        await asyncio.sleep(max(0.001, min(due, until) - time.perf_counter()))
    busy.note(took)
    took.cpu_seconds, took.seconds = cpu() - before, time.perf_counter() - began
    took.late_seconds = statistics.quantiles(late, n=100)[-1] if len(late) > 1 else 0.0
    await _drain(links)
    return took


async def _drain(links: Sequence[Link]) -> None:
    """Wait until the calls in flight are answered, or would not be."""
    until = time.perf_counter() + _DRAIN_SECONDS
    while any(len(link) for link in links) and time.perf_counter() < until:  # noqa: ASYNC110 - rare, and not timed
        await asyncio.sleep(0.01)
