"""What an item of a BatchRead costs, next to a no-op handler and a Read, on both backends.

A BatchRead asks for as many records as it may, of 1 KiB each; what it costs is divided by their number.
"""

from functools import partial

from benchmarks.contestant import Contestant
from benchmarks.generator import Round, closed_loop
from benchmarks.others import noop_loads
from benchmarks.plan import Plan
from benchmarks.report import Measured, Section
from benchmarks.rivals import Rival, digits, in_turns, ratio
from benchmarks.sections.calls import NOOP, READ, TUNED
from keyvault_api.names import BATCH_READ, MAX_BATCH_ITEMS

ITEM = "an item of a BatchRead"
BATCHES = 4
"""BatchReads in flight: below the number that the server works on at a time."""
_SHAPES = ("plain", "aws")


async def measure(plan: Plan) -> Measured:
    """Measure each backend in turns with the no-op handler."""
    measured = Measured(cells={title: [] for title in (NOOP, TUNED, READ, ITEM)})
    for shape in _SHAPES:
        ours = await plan.contestant(shape)
        noops = {
            title: (await noop_loads(plan, ours.requests, tuned=title == TUNED))["Read"] for title in (NOOP, TUNED)
        }
        rivals = [Rival(title, load.play) for title, load in noops.items()]
        rivals += [Rival(READ, partial(ours.full, "Read")), Rival(ITEM, partial(_full_of_batches, ours))]
        played = await in_turns(rivals, plan.rounds)
        for title, rounds in played.items():
            parts = MAX_BATCH_ITEMS if title == ITEM else 1
            share = ratio(played[ITEM], rounds, lambda one: one.cpu_microseconds) * parts / MAX_BATCH_ITEMS
            measured.cells[title] += [digits(rounds.cpu_microseconds / parts), f"{share:.3f}"]
            measured.note(title, rounds)
    return measured


async def _full_of_batches(ours: Contestant) -> Round:
    link = await ours.server.connect(BATCH_READ)
    try:
        return await closed_loop(
            [link],
            ours.requests.source(BATCH_READ),
            in_flight=BATCHES,
            seconds=ours.seconds,
            cpu=ours.server.cpu_seconds,
        )
    finally:
        link.close()


BATCH = Section(
    "batch",
    (
        f"{MAX_BATCH_ITEMS} items of 1 KiB",
        "embedded, CPU us",
        "an item is",
        "AWS at once, CPU us",
        "an item of it is",
    ),
    (NOOP, TUNED, READ, ITEM),
    measure,
)
