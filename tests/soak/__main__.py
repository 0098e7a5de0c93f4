"""A soak: `python -m tests.soak [--minutes N] [--seed N]`: a real server under mixed load, and whether it grows.

The server has TLS, client certificates, a policy, an audit log and the access log. It is looked at before the load,
during it and after it. It fails if an answer is wrong; if descriptors, threads or tasks grow, or are not given back at
the end; or if memory grows by more than watch.py allows for the length of the run: 4 MB, and 1 MB for each hour.
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

from tests.protected import protected_process
from tests.soak.load import Mix
from tests.soak.watch import MAY_GROW, Growth, Sample, Watched, growth

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
    audit_bytes: int = 0

    @property
    def grown(self) -> list[Growth]:
        """Each quantity after the warm-up."""
        return growth(self.samples)


async def soaked(folder: Path, minutes: float, seed: int) -> Soaked:
    """One run."""
    tasks = folder / "tasks"
    found = Soaked()
    program = (sys.executable, "-m", "tests.soak.counted")
    with protected_process(folder, program, SOAK_TASKS=str(tasks)) as server:
        watched, mix = Watched(server.server.process.pid, tasks), Mix(server, seed)
        async with server.channel() as channel:
            await asyncio.wait_for(channel.channel_ready(), 30)
        before = await watched.look()
        looking = asyncio.create_task(_look(watched, mix, found, max(2.0, minutes * 60 / LOOKS)))
        await mix.run(minutes * 60)
        looking.cancel()
        found.wrong += mix.wrong + await _at_rest(watched, before)
        found.calls = dict(mix.calls)
        found.audit_bytes = server.audit_file.stat().st_size
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


def told(found: Soaked, minutes: float, seed: int) -> None:
    """Prints it, the verdict last."""
    print("done:", ", ".join(f"{kind} {count:,}" for kind, count in sorted(found.calls.items())))
    print("after the warm-up:", "; ".join(map(str, found.grown)))
    quarter = max(1, len(found.slow) // 4)
    first, last = (statistics.median(found.slow[part]) * 1000 for part in (slice(quarter), slice(-quarter, None)))
    print(f"99th percentile of good calls: {first:.0f} ms in the first quarter, {last:.0f} ms in the last")
    for sentence in found.wrong[:20]:
        print("WRONG:", sentence)
    memory = next(each for each in found.grown if each.name == "memory")
    print(
        f"soak: {minutes:g} minutes, seed {seed}, {sum(found.calls.values()):,} turns, {len(found.wrong)} wrong;"
        f" memory {memory.per_hour:+.1f} MB/h after the warm-up ({memory.first:.1f} to {memory.last:.1f} MB),"
        f" {os.cpu_count()} cores"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="keyvault-soak-") as made:
        result = asyncio.run(soaked(Path(made), given.minutes, given.seed))
    told(result, given.minutes, given.seed)
    raise SystemExit(bool(result.wrong))
