"""A soak: `python -m tests.soak [--minutes N] [--seed N]`: real servers under mixed load, and whether they grow.

There are two at a time: the callers of one wait for their answers, most callers of the other do not. Each has TLS,
client certificates, a policy, an audit log and the access log. It is looked at before the load, during it and after it.
It fails if an answer is wrong; if descriptors, threads or tasks grow, or are not given back at the end; or if memory
grows by more than watch.py allows: 8 MB, 1 MB for each hour, and 80 bytes for each call that was given up.
"""

import argparse
import asyncio
import gc
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.soak.load import Mix
from tests.soak.watch import MAY_GROW, RECORDS_READ, Growth, Sample, Watched, growth
from tests.support.production_server import production_server

LOOKS = 240
"""In a run, at most one in two seconds."""
REST_SECONDS = 30.0
"""In which a server has to give back what its callers had, once they are gone."""


@dataclass
class Soaked:
    """What a run showed."""

    samples: list[Sample] = field(default_factory=list)
    slow: list[float] = field(default_factory=list)
    """The 99th percentile of the authors' calls between two looks, in seconds."""
    wrong: list[str] = field(default_factory=list)
    calls: dict[str, int] = field(default_factory=dict)
    given_up: int = 0

    @property
    def grown(self) -> list[Growth]:
        """Each quantity after the warm-up."""
        return growth(self.samples, self.given_up, RECORDS_READ)


async def soaked(folder: Path, minutes: float, seed: int, *, hasty: bool) -> Soaked:
    """One server's run."""
    counts = folder / "counts"
    found = Soaked()
    program = (sys.executable, "-m", "tests.soak.counted")
    with production_server(folder, program, SOAK_COUNTS=str(counts)) as server:
        watched, mix = Watched(server.server.process.pid, counts), Mix(server, seed, hasty)
        async with server.channel() as channel:
            await asyncio.wait_for(channel.channel_ready(), 30)
        before = await watched.look()
        looking = asyncio.create_task(_look(watched, mix, found, max(2.0, minutes * 60 / LOOKS)))
        await mix.run(minutes * 60)
        looking.cancel()
        found.wrong += mix.wrong + await _at_rest(watched, before)
        found.calls, found.given_up = dict(mix.calls), mix.given_up
        if status := server.server.stop():
            found.wrong.append(f"the server ended with status {status}")
        if "unexpected error" in server.server.log.read_text():
            found.wrong.append("the server's log has an unexpected error")
    found.wrong += [str(each) for each in found.grown if not each.good]
    return found


async def _look(watched: Watched, mix: Mix, found: Soaked, seconds: float) -> None:
    while True:
        await asyncio.sleep(seconds)
        found.samples.append(await watched.look())
        if len(mix.seconds) > 1:
            found.slow.append(statistics.quantiles(mix.seconds, n=100)[-1])
            mix.seconds.clear()


async def _at_rest(watched: Watched, before: Sample) -> list[str]:
    """What the server has not given back, though all callers are gone."""
    until = time.monotonic() + REST_SECONDS
    while True:
        gc.collect()  # grpc's client keeps the connection of a call that nobody waits for until then
        now = await watched.look()
        kept = [
            f"{name} {getattr(before, name)} before the load, {getattr(now, name)} after it"
            for name, allowed in MAY_GROW.items()
            if getattr(now, name) > getattr(before, name) + (allowed if name == "threads" else 0)
        ]
        if not kept or time.monotonic() > until:
            return kept
        await asyncio.sleep(0.5)


async def both(folder: Path, minutes: float, seed: int) -> list[Soaked]:
    """A run of two servers at a time: the one with steady callers, and the one with hasty ones."""
    runs = []
    for hasty, name in ((False, "steady"), (True, "hasty")):
        (folder / name).mkdir()
        runs.append(soaked(folder / name, minutes, seed, hasty=hasty))
    return await asyncio.gather(*runs)


def printed(who: str, found: Soaked) -> None:
    """Prints what one server showed."""
    print(f"{who}: done:", ", ".join(f"{kind} {count:,}" for kind, count in sorted(found.calls.items())))
    print(f"{who}: after the warm-up:", "; ".join(map(str, found.grown)))
    quarter = max(1, len(found.slow) // 4)
    first, last = (statistics.median(found.slow[part]) * 1000 for part in (slice(quarter), slice(-quarter, None)))
    print(f"{who}: 99th percentile of good calls: {first:.0f} ms in the first quarter, {last:.0f} ms in the last")
    for sentence in found.wrong[:20]:
        print(f"{who}: WRONG:", sentence)
    memory = next(each for each in found.grown if each.name == "memory")
    print(
        f"{who}: {sum(found.calls.values()):,} turns, {found.given_up:,} calls given up, {len(found.wrong)} wrong;"
        f" memory {memory.per_hour:+.1f} MB/h after the warm-up"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="keyvault-soak-") as made:
        results = asyncio.run(both(Path(made), given.minutes, given.seed))
    for who, found in zip(("steady callers", "hasty callers"), results, strict=True):
        printed(who, found)
    wrong = sum(len(found.wrong) for found in results)
    print(f"soak: {given.minutes:g} minutes, seed {given.seed}, {wrong} wrong, {os.cpu_count()} cores")
    raise SystemExit(bool(wrong))
