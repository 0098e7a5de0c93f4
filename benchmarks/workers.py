"""Several workers and one process on a stand-in for AWS: `python -m benchmarks.workers [--workers 2] [--rounds 5]`.

Both servers run on core 0, the load and the stand-in on the last core, and rounds alternate. A worker has what the one
process has: the same limits, connections and calls in flight. Connections are spread over all workers, and each of
them gets the core to itself for its part of a round, as it has a core of its own in production. The CPU time a call
counts all processes of a server. So the ratio says what workers cost each other: N workers make N times as many calls,
divided by it. Two make 1.8 times as many up to a ratio of 1.11.

    busiest    share of the connections that one worker got: the system spreads them at random
"""

import argparse
import asyncio
import itertools
import os
import signal
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import uvloop

from benchmarks.arguments import parser_of
from benchmarks.calls import IN_FLIGHT, KINDS, Requests
from benchmarks.contestant import close
from benchmarks.generator import Round, closed_loop
from benchmarks.http2 import Connection
from benchmarks.servers import ROOT, Server, cpu_seconds, pin_generator, vault

CONNECTIONS = 32
"""Of each worker, on average."""
LIMITS = {"CONCURRENT_CALLS": 256, "AWS_CONNECTIONS": 64, "CONNECTIONS": 1_000, "CONNECTIONS_PER_ADDRESS": 500}
"""The defaults, which workers would divide."""


@dataclass
class Side:
    """One of both servers."""

    server: Server
    requests: Requests
    workers: int
    busiest: float = 0.0
    """Share of the connections in the last round."""

    async def play(self, kind: str, seconds: float) -> Round:
        """Keep 64 calls in flight on one worker after the other; return all of it as one round."""
        family = [self.server.pid, *children_of(self.server.pid)]
        async with AsyncExitStack() as stack:
            links = [await self.server.connect(kind) for _ in range(CONNECTIONS * self.workers)]
            close(stack, links)
            groups = await self._by_worker(links, family)
            assert len(groups) == self.workers, "a worker got no connection: run again"
            self.busiest = max(map(len, groups.values())) / len(links)
            rounds = []
            for group in groups.values():
                await self.requests.make(kind, int(2_000 * seconds))
                rounds.append(
                    await closed_loop(
                        group,
                        self.requests.source(kind),
                        in_flight=IN_FLIGHT,
                        seconds=seconds / self.workers,
                        cpu=lambda: sum(map(cpu_seconds, family)),
                    )
                )
        return together(rounds)

    async def _by_worker(self, links: list[Connection], family: list[int]) -> Mapping[int, list[Connection]]:
        """Return the connections by the process that has accepted them."""
        port = int(self.server.address.rpartition(":")[2])
        while True:
            holders = {name: pid for pid in family for name in descriptors_of(pid)}
            accepted = accepted_on(port)
            if all(accepted.get(link.port) in holders for link in links):
                break
            assert not any(link.closed for link in links), "the server closed a connection"
            await asyncio.sleep(0.05)
        groups: dict[int, list[Connection]] = {}
        for link in links:
            groups.setdefault(holders[accepted[link.port]], []).append(link)
        return groups


def together(rounds: list[Round]) -> Round:
    """Return the sum of these rounds; the generator is trusted if it was in each of them."""
    whole = Round(busy=max(one.busy for one in rounds))
    for one in rounds:
        whole.seconds += one.seconds
        whole.cpu_seconds += one.cpu_seconds
        whole.statuses += one.statuses
    return whole


def accepted_on(port: int) -> Mapping[int, str]:
    """Return the descriptors' names of the connections to a port, by the port of their client."""
    found = {}
    tables = [Path(f"/proc/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
    for line in itertools.chain(*tables):
        _, ours, peer, *_, inode = line.split()[:10]
        if int(ours.rpartition(":")[2], 16) == port:
            found[int(peer.rpartition(":")[2], 16)] = f"socket:[{inode}]"
    return found


def descriptors_of(pid: int) -> Iterator[str]:
    """Yield what a process has open."""
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):  # it was closed
            yield str(descriptor.readlink())


def children_of(pid: int) -> Iterator[int]:
    """Yield the processes that this one started and that still run."""
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has just ended
            if int(status.read_text().rpartition(")")[2].split()[1]) == pid:
                yield int(status.parent.name)


async def compare(arguments: argparse.Namespace) -> None:
    """Print a line for each kind of call."""
    pin_generator()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=Path(__file__).parent, prefix="data-")))
        sides = []
        for workers in (1, arguments.workers):
            settings = {f"KEYVAULT_{name}": str(value * workers) for name, value in LIMITS.items()}
            settings["KEYVAULT_WORKERS"] = str(workers)
            server = stack.enter_context(vault(arguments.shape, folder / f"{workers}", ROOT, **settings))
            sides.append(Side(server, Requests(server), workers))
            await sides[-1].requests.prepare()
        rounds = f"{arguments.rounds} rounds of {arguments.seconds:g} s"
        print(f"{arguments.workers} workers, {arguments.shape}, {rounds}, load {os.getloadavg()[0]:.1f} at the start")
        print(f"{'call':14}{'CPU us/call: one':>18}{'workers':>9}{'ratio':>7}  lowest-highest   times as many  busiest")
        for kind in arguments.calls.split(","):
            await line(sides, kind, arguments)


async def line(sides: list[Side], kind: str, arguments: argparse.Namespace) -> None:
    """Play a round to warm up, then so many in turns; print their medians."""
    played, busiest = [], []
    for number in range(arguments.rounds + 1):
        order = sides if number % 2 else sides[::-1]
        took = {side.workers: await side.play(kind, arguments.seconds) for side in order}
        if number:
            played.append([took[side.workers] for side in sides])
            busiest.append(sides[1].busiest)
    trusted = [each for each in played if all(took.trusted and took.good for took in each)]
    values = [[took.cpu_microseconds for took in each] for each in trusted or played]
    ratios = [several / one for one, several in values]
    one, several = (statistics.median(side) for side in zip(*values, strict=True))
    ratio = statistics.median(ratios)
    numbers = f"{one:18.0f}{several:9.0f}{ratio:7.2f}  {f'{min(ratios):.2f}-{max(ratios):.2f}':14}"
    note = "" if trusted else "  (the generator waited for its core in every round)"
    print(f"{kind:14}{numbers}{arguments.workers / ratio:16.2f}{statistics.median(busiest):9.0%}{note}", flush=True)


def main() -> None:
    """Read the arguments, and compare."""
    parser = parser_of("workers", __doc__)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--shape", choices=("aws", "aws-3ms"), default="aws-3ms")
    parser.add_argument("--calls", default="Read,GenerateKey,Create", metavar="A,B", help=f"some of {','.join(KINDS)}")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of one round")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends the servers
    uvloop.run(compare(parser.parse_args()))


if __name__ == "__main__":
    main()
