"""What an item of a BatchRead costs next to calls: `python -m benchmarks.batch [--shape production] [--rounds 7]`.

Server CPU time, all threads, of a no-op call (noop_server.py, plain and tuned as our server is), of a Read, and of one
of 100 items of a BatchRead, each of 1 KiB. The servers run on core 0, the load on the last core; rounds alternate, and
a ratio is the median of those of rounds that were played one after the other.
"""

import statistics
import sys
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path

import uvloop

from benchmarks.arguments import parser_of
from benchmarks.calls import IN_FLIGHT, KIB, NAMES, SCOPE, Requests
from benchmarks.generator import Round, closed_loop
from benchmarks.servers import SHAPES, Server, pin_generator, started, vault
from keyvault_api.names import BATCH_READ, MAX_BATCH_ITEMS
from keyvault_api.v1 import keyvault_pb2 as pb

BATCHES = 4
"""BatchReads in flight: below the number that the server works on at a time."""
Play = Callable[[], Awaitable[float]]


def batches() -> list[bytes]:
    """Return requests that together ask for all records."""
    names = [f"{SCOPE}read/{number}" for number in range(NAMES)]
    items = [pb.BatchReadRequest.Item(key_id=name) for name in names]
    starts = range(0, NAMES, MAX_BATCH_ITEMS)
    return [pb.BatchReadRequest(items=items[at : at + MAX_BATCH_ITEMS]).SerializeToString() for at in starts]


async def main(shape: str, rounds: int, seconds: float) -> None:
    """Play the rounds, and print the medians and the ratios."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="batch-")))
        ours = stack.enter_context(vault(shape, folder / "vault"))
        requests = Requests(ours, KIB)
        await requests.prepare()
        answers = [(await requests.answer(kind)).hex() for kind in ("Read", "Create")]
        noop = (sys.executable, str(Path(__file__).with_name("noop_server.py")), *answers)
        plain, tuned = (
            stack.enter_context(started([*noop, *how], folder / f"noop-{len(how)}")) for how in ([], ["tuned"])
        )
        many = batches()
        reads = requests.source("Read")

        def playing(server: Server, method: str, source: Callable[[int], bytes], in_flight: int) -> Play:
            async def play() -> float:
                link = await server.connect(method)
                took = await closed_loop([link], source, in_flight=in_flight, seconds=seconds, cpu=server.cpu_seconds)
                link.close()
                return cpu_of(took)

            return play

        plays = {
            "a no-op call": playing(plain, "Read", reads, IN_FLIGHT),
            "a no-op call, tuned": playing(tuned, "Read", reads, IN_FLIGHT),
            "a Read": playing(ours, "Read", reads, IN_FLIGHT),
            "an item of a BatchRead": playing(ours, BATCH_READ, lambda slot: many[slot % len(many)], BATCHES),
        }
        taken: dict[str, list[float]] = {name: [] for name in plays}
        for _ in range(rounds):
            for name, play in plays.items():
                taken[name].append(await play() / (MAX_BATCH_ITEMS if "item" in name else 1))
    show(taken)


def cpu_of(took: Round) -> float:
    """Return the server's CPU time of a call, in microseconds."""
    assert took.good == took.statuses.total(), f"calls were answered {dict(took.statuses)}"
    return took.cpu_microseconds


def show(taken: dict[str, list[float]]) -> None:
    """Print each kind's CPU time, and an item's as a share of it."""
    items = taken["an item of a BatchRead"]
    for name, figures in taken.items():
        shares = sorted(item / figure for item, figure in zip(items, figures, strict=True))
        print(
            f"{name:24}{statistics.median(figures):7.1f} us;"
            f" an item is {statistics.median(shares):.3f} of it ({shares[0]:.3f} to {shares[-1]:.3f})"
        )


if __name__ == "__main__":
    parser = parser_of("batch", __doc__)
    parser.add_argument("--shape", choices=SHAPES, default="plain")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="of one round")
    asked = parser.parse_args()
    pin_generator()
    uvloop.run(main(asked.shape, asked.rounds, asked.seconds))
