"""What a process holds, over time: memory, descriptors, threads and asyncio tasks, and whether they grow.

The rule of this file: a process is looked at from outside, through /proc, but for what counted.py counts.
"""

import asyncio
import os
import signal
import statistics
import time
from dataclasses import dataclass, fields
from pathlib import Path

from keyvault_server.backends.embedded.row_cache import CACHED_BYTES

MEGABYTE = 1e6
WARM_UP = 0.2
"""Of a run: what it takes until caches, pools and the allocator have what they need."""
MEMORY_PER_HOUR = 1.0
"""MB that a server may grow in an hour after the warm-up ..."""
MEMORY_NOISE = 4.0
"""... and what a look at it may be off: a run of minutes cannot see less."""
RECORDS_READ = CACHED_BYTES / MEGABYTE
"""MB that the embedded backend fills with what is read, in a run of half a minute not before its end."""
GRPC_LOSES = 80
"""Bytes of memory that grpc.aio may lose with a call that is given up (https://github.com/grpc/grpc/issues/43360): the
`grpc_op` of an operation that is under way at that moment, or fails behind it. docs/reliability.md has what we saw."""
MAY_GROW = {"descriptors": 8, "threads": 8, "tasks": 24}
"""Connections and streams come and go while we look, and grpc adds threads of its own; more than this is a leak."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One look."""

    time: float
    """Seconds, of some clock."""
    memory: float
    """Resident, in MB."""
    descriptors: int
    threads: int
    tasks: int


@dataclass(frozen=True, slots=True)
class Watched:
    """A server that was started by counted.py."""

    pid: int
    counts: Path
    """Where it writes how many tasks and descriptors it has."""

    async def look(self) -> Sample:
        """Raises TimeoutError if the event loop does not run for ten seconds."""
        process = Path(f"/proc/{self.pid}")
        status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
        memory = int(status["VmRSS"].split()[0]) * 1024 / MEGABYTE
        tasks, descriptors = await self._counted()
        return Sample(time.monotonic(), memory, descriptors, int(status["Threads"]), tasks)

    async def _counted(self) -> tuple[int, int]:
        self.counts.unlink(missing_ok=True)
        os.kill(self.pid, signal.SIGUSR1)
        async with asyncio.timeout(10):
            while not self.counts.exists():
                await asyncio.sleep(0.01)
        tasks, descriptors = map(int, self.counts.read_text().split())
        return tasks, descriptors


@dataclass(frozen=True, slots=True)
class Growth:
    """How one quantity went after the warm-up."""

    name: str
    first: float
    """The median of the first quarter."""
    last: float
    """The median of the last quarter."""
    per_hour: float
    """The slope of the straight line through all of it (least squares)."""
    allowed: float

    @property
    def good(self) -> bool:
        """True if what grew is within what may."""
        return self.last - self.first <= self.allowed

    def __str__(self) -> str:
        verdict = "" if self.good else f", GROWS: {self.allowed:.1f} more would do"
        return f"{self.name} {self.first:.1f} -> {self.last:.1f}{verdict}"


def growth(samples: list[Sample], given_up: int = 0, filling: float = 0.0) -> list[Growth]:
    """Of each quantity, over all samples after the warm-up, when so many calls were given up.

    `filling` is what a bounded cache may yet take, in MB.
    """
    begin = samples[0].time + WARM_UP * (samples[-1].time - samples[0].time)
    warm = [sample for sample in samples if sample.time >= begin]
    hours = [(sample.time - begin) / 3600 for sample in warm]
    lost = given_up * GRPC_LOSES / MEGABYTE
    allowed = MAY_GROW | {"memory": MEMORY_NOISE + filling + MEMORY_PER_HOUR * hours[-1] + lost}
    grown = []
    for name in (field.name for field in fields(Sample) if field.name != "time"):
        values = [float(getattr(sample, name)) for sample in warm]
        quarter = max(1, len(values) // 4)
        first, last = statistics.median(values[:quarter]), statistics.median(values[-quarter:])
        slope = statistics.linear_regression(hours, values).slope
        grown.append(Growth(name, first, last, slope, allowed[name]))
    return grown
