"""What the audit log costs, as ratios of two things timed in one run: `python -m benchmarks.audit [--quick]`.

Lines with 64 callers in flight, against one caller at a time, against bare writes of as many bytes with an fdatasync
each. Rounds alternate between them; each figure is the median of the rounds. Core 0 alone, so that CPU time means CPU
time of one core. The disk is that of this folder.
"""

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.calls import IN_FLIGHT
from benchmarks.servers import SERVER_CORE
from keyvault_server.audit.entry import Call, Change
from keyvault_server.audit.key import AuditKey
from keyvault_server.audit.trail import Audit, AuditOptions, open_audit
from keyvault_server.audit.verify import verify
from keyvault_server.core.records import successor

HERE = Path(__file__).parent
CALL = Call("0123456789-abcdef", "spiffe://acme.example/ns/billing/sa/worker", "Update", "acme", "prod/billing/db")


@dataclass
class Round:
    """What so many lines took."""

    lines: int
    seconds: float
    cpu_seconds: float
    syncs: int


class Syncs:
    """fdatasync, counted."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, file: int) -> None:
        """Makes the file's data durable."""
        self.count += 1
        os.fdatasync(file)


def mutation() -> Callable[[Audit], Awaitable[None]]:
    """An intent and an outcome of a record of 1 KiB: two lines."""
    envelope = bytes.fromhex("4b564501010100000000000000000007") + os.urandom(72 + 1024)
    change, over = Change.of(successor(None, envelope, 1, fresh=True)), os.urandom(72)

    async def note(audit: Audit) -> None:
        intent = await audit.intent(CALL, change, expected=over)
        await audit.outcome(CALL, "OK", change=change, intent=intent)

    return note


async def trail(folder: Path, calls: int, in_flight: int) -> Round:
    """So many mutations, so many of them at a time."""
    syncs, note, left = Syncs(), mutation(), calls
    async with open_audit(AuditOptions(folder / f"audit-{in_flight}", folder / "key"), sync=syncs) as audit:

        async def worker() -> None:
            nonlocal left
            while left > 0:
                left -= 1
                await note(audit)

        syncs.count = 0
        began, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(worker() for _ in range(in_flight)))
        return Round(calls * 2, time.perf_counter() - began, time.process_time() - cpu, syncs.count)


def bare(folder: Path, lines: int) -> Round:
    """As many bytes as lines have, an fdatasync after each."""
    line = os.urandom(560)
    file = os.open(folder / "bare", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    began, cpu = time.perf_counter(), time.process_time()
    for _ in range(lines):
        os.write(file, line)
        os.fdatasync(file)
    took = Round(lines, time.perf_counter() - began, time.process_time() - cpu, lines)
    os.close(file)
    return took


def report(title: str, ours: list[Round], theirs: list[Round]) -> None:
    """One line: throughput, CPU and fsyncs."""
    ratio = statistics.median(
        (one.lines / one.seconds) / (other.lines / other.seconds) for one, other in zip(ours, theirs, strict=True)
    )
    many, one = (statistics.median(r.lines / r.seconds for r in side) for side in (ours, theirs))
    cpu, other_cpu = (statistics.median(r.cpu_seconds / r.lines * 1e6 for r in side) for side in (ours, theirs))
    syncs = statistics.median(r.lines / r.syncs for r in ours)
    print(
        f"{title}: {ratio:.1f} times by throughput ({many:.0f} lines/s to {one:.0f}/s),"
        f" {cpu:.0f} us of CPU a line to {other_cpu:.0f} us, {syncs:.0f} lines an fsync"
    )


def verifying(folder: Path) -> None:
    """How fast a log of many lines is verified, against reading it alone."""
    path = folder / f"audit-{IN_FLIGHT}"
    began = time.perf_counter()
    found = verify([path], AuditKey.load(folder / "key"))
    seconds = time.perf_counter() - began
    assert found.whole, found.bad
    began = time.perf_counter()
    with path.open("rb") as file:
        count = sum(1 for _ in file)
    reading = time.perf_counter() - began
    print(
        f"verifying, against reading the lines alone: {seconds / reading:.0f} times"
        f" ({seconds / count * 1e6:.0f} us a line; {path.stat().st_size / count:.0f} bytes a line)"
    )


async def main(calls: int, rounds: int) -> None:
    """All figures."""
    os.sched_setaffinity(0, {SERVER_CORE})
    with tempfile.TemporaryDirectory(dir=HERE, prefix="data-") as data:
        played = []
        for number in range(rounds):
            folder = Path(data) / str(number)
            folder.mkdir()
            one_by_one = await trail(folder, calls // 16, 1)
            played.append((await trail(folder, calls, IN_FLIGHT), one_by_one, bare(folder, calls // 8)))
        many, one, plain = (list(side) for side in zip(*played, strict=True))
        report("64 mutations in flight against one at a time", many, one)
        report("one mutation at a time against bare writes with an fdatasync each", one, plain)
        report("64 mutations in flight against bare writes with an fdatasync each", many, plain)
        verifying(folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.audit", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer calls: shows that it runs, not the figures")
    asyncio.run(main(*((320, 1) if parser.parse_args().quick else (8_000, 5))))
