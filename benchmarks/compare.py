"""Two versions of the server in one run: `python -m benchmarks.compare --before COMMIT [--shape production] ...`.

The version before is a git worktree of COMMIT in a temporary folder; both servers run on core 0, the load on the last
core, and rounds alternate between them, so that a noisy machine disturbs both. A figure is the ratio now / before of
each pair of rounds: the median, and the lowest and highest. Both share this environment's packages and protocol.

    full    64 calls in flight: the server's CPU time a call (user and system, all threads), calls a second, p50 and p99
    half    an open loop at half of what the version before makes: p50 and p99
    mixed   one Create at a time next to 8 and to 64 Reads in flight: p50 and p99 of both
    2x, 4x  an open loop at so many times what each version makes: good calls a second, as a share of that
"""

import argparse
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import uvloop

from benchmarks.arguments import parser_of
from benchmarks.calls import IN_FLIGHT, KINDS, REFUSED, Requests
from benchmarks.contestant import Contestant
from benchmarks.generator import Round
from benchmarks.rivals import Rival, in_turns
from benchmarks.servers import ROOT, SHAPES, pin_generator, vault

LOADS = ("full", "half", "mixed", "2x", "4x")


@dataclass(frozen=True)
class Figure:
    """One number of a round, and how it is printed."""

    title: str
    of: Callable[[Round], float]
    digits: int = 1


CPU = Figure("CPU us/call", lambda took: took.cpu_microseconds, 0)
RATE = Figure("calls/s", lambda took: took.per_second, 0)
P50 = Figure("p50 ms", lambda took: took.quantile(0.50), 2)
P99 = Figure("p99 ms", lambda took: took.quantile(0.99), 2)


@contextmanager
def worktree(commit: str) -> Iterator[Path]:
    """Check a commit out into a temporary folder while the body runs."""
    git = ("git", "-C", str(ROOT), "worktree")
    with tempfile.TemporaryDirectory(prefix="keyvault-") as folder:
        tree = Path(folder, "before")
        if subprocess.run([*git, "add", "--quiet", "--detach", tree, commit], check=False).returncode:
            sys.exit(
                f"benchmarks.compare: --before {commit}: git cannot check it out; name a commit of this repository"
            )
        try:
            yield tree
        finally:
            subprocess.run([*git, "remove", "--force", tree], check=True)


async def compare(arguments: argparse.Namespace) -> None:
    """Print a table: a line for each kind of call, load and figure."""
    pin_generator()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=Path(__file__).parent, prefix="data-")))
        tree = stack.enter_context(worktree(arguments.before))
        pair = []
        for name, sources in (("before", tree), ("now", ROOT)):
            server = stack.enter_context(vault(arguments.shape, folder / f"{name}-data", sources))
            pair.append(Contestant(name, server, Requests(server), arguments.seconds))
            await pair[-1].requests.prepare()
        print(f"{arguments.before} and the working tree, {arguments.shape}, {arguments.rounds} rounds")
        print(f"{'call':16}{'load':10}{'figure':14}{'before':>10}{'now':>10}{'ratio':>8}  lowest-highest")
        for load in arguments.loads:
            for kind in arguments.calls if load != "mixed" else ("Create",):
                await LINES[load](pair, kind, arguments.rounds)


async def full(pair: list[Contestant], kind: str, rounds: int) -> None:
    """Compare at 64 calls in flight."""
    figures = (CPU,) if KINDS[kind].throttled else (CPU, RATE, P50, P99)
    await alternate(pair, kind, "full", rounds, figures, lambda one: one.full(kind))


async def half(pair: list[Contestant], kind: str, rounds: int) -> None:
    """Compare latencies at half of what the version before makes."""
    rate = (await pair[0].full(kind)).per_second / 2
    await alternate(pair, kind, "half", rounds, (P50, P99), lambda one: one.offered(kind, rate))


async def mixed(pair: list[Contestant], kind: str, rounds: int) -> None:
    """Compare one Create at a time with Reads in flight, and those Reads."""
    for reads in (8, IN_FLIGHT):
        played = [[await one.mixed(reads) for one in pair] for _ in range(rounds)]
        report("Create", f"+{reads} Reads", (P50, P99), [[creates for creates, _ in each] for each in played])
        report("Read", f"{reads}+Create", (RATE, P50, P99), [[took for _, took in each] for each in played])


def overload(times: int) -> "Line":
    """Return the comparison of goodput at so many times what each version makes."""

    async def offer(pair: list[Contestant], kind: str, rounds: int) -> None:
        capacity = {one.name: (await one.full(kind)).per_second for one in pair}
        goodput = Figure("goodput/s", lambda took: took.per_second, 0)

        async def one_round(one: Contestant) -> Round:
            return await one.offered(kind, capacity[one.name] * times)

        played = await alternate(pair, kind, f"{times}x", rounds, (goodput, P99), one_round)
        if trusted := [each for each in played if all(took.trusted for took in each)]:
            good = [statistics.median(each[at].per_second for each in trusted) for at in range(2)]
            before, now = (rate / capacity[one.name] for rate, one in zip(good, pair, strict=True))
            print(f"{kind:16}{f'{times}x':10}{'of capacity':14}{before:10.0%}{now:10.0%}", flush=True)

    return offer


Line = Callable[[list[Contestant], str, int], Awaitable[None]]
LINES: dict[str, Line] = {"full": full, "half": half, "mixed": mixed, "2x": overload(2), "4x": overload(4)}


async def alternate(
    pair: list[Contestant],
    kind: str,
    load: str,
    rounds: int,
    figures: tuple[Figure, ...],
    play: Callable[[Contestant], Awaitable[Round]],
) -> list[list[Round]]:
    """Play a round to warm up and then so many, the two in turns; print the figures and return the rounds."""
    took = await in_turns([Rival(one.name, partial(play, one)) for one in pair], rounds)
    played = [list(each) for each in zip(*(took[one.name] for one in pair), strict=True)]
    report(kind, load, figures, played)
    return played


def report(kind: str, load: str, figures: tuple[Figure, ...], played: list[list[Round]]) -> None:
    """Print a line for each figure; none for rounds in which the generator was the limit."""
    trusted = [each for each in played if all(took.trusted and took.good for took in each)]
    if not trusted:
        worst = max((took for each in played for took in each), key=lambda took: took.busy)
        why = f"generator {worst.busy:.0%} busy, {worst.late_seconds * 1e3:.1f} ms late; {dict(worst.statuses)}"
        print(f"{kind:16}{load:10}no figure: {why}", flush=True)
        return
    for figure in figures:
        values = [[figure.of(took) for took in each] for each in trusted]
        ratios = [now / before for before, now in values]
        before, now = (statistics.median(side) for side in zip(*values, strict=True))
        numbers = f"{before:10.{figure.digits}f}{now:10.{figure.digits}f}{statistics.median(ratios):8.2f}"
        dropped = f"  ({len(played) - len(trusted)} rounds dropped)" if len(trusted) < len(played) else ""
        spread = f"{min(ratios):.2f}-{max(ratios):.2f}"
        print(f"{kind:16}{load:10}{figure.title:14}{numbers}  {spread}{dropped}", flush=True)


def names_of(known: tuple[str, ...]) -> Callable[[str], list[str]]:
    """Return a parser of a list of these names, with commas between."""

    def parse(text: str) -> list[str]:
        chosen = text.split(",")
        if unknown := [name for name in chosen if name not in known]:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r}: expected some of {','.join(known)}")
        return chosen

    return parse


def main() -> None:
    """Read the arguments, and compare."""
    parser = parser_of("compare", __doc__)
    parser.add_argument("--before", required=True, metavar="COMMIT", help="the version to compare with")
    parser.add_argument("--shape", choices=SHAPES, default="plain")
    parser.add_argument("--calls", type=names_of(tuple(KINDS)), metavar="A,B", help=f"some of {','.join(KINDS)}")
    parser.add_argument("--loads", type=names_of(LOADS), default=["full"], metavar="A,B", help=",".join(LOADS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of one round")
    arguments = parser.parse_args()
    arguments.calls = arguments.calls or ["Read", "GenerateKey", "Create"]
    if arguments.shape != "production" and set(arguments.calls) & set(REFUSED):
        sys.exit(f"benchmarks.compare: --calls {','.join(REFUSED)}: only with --shape production, which has callers")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends the servers, and removes the worktree
    uvloop.run(compare(arguments))


if __name__ == "__main__":
    main()
