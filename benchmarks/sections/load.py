"""What users wait: below capacity, with reads and writes mixed, and above capacity."""

from functools import partial

from benchmarks.calls import IN_FLIGHT
from benchmarks.contestant import Contestant
from benchmarks.plan import Plan
from benchmarks.plot import Axes, Line, plot
from benchmarks.report import Measured, Section
from benchmarks.rivals import Rival, Rounds, digits, in_turns, ratio

SHAPES = {"plain": "plain", "production": "production shape"}
KINDS = ("Read", "Create")
ROWS = {f"{kind}, {title}": (kind, shape) for shape, title in SHAPES.items() for kind in KINDS}
MIXED = {
    f"a Create at a time next to {reads} Reads, {title}": (reads, shape)
    for shape, title in SHAPES.items()
    for reads in (8, IN_FLIGHT)
}
OFFERED = (0.5, 1.0, 1.5, 2.0, 4.0)
"""Times the capacity."""
PLOT = "goodput.svg"


async def _contestants(plan: Plan) -> dict[str, Contestant]:
    return {shape: await plan.contestant(shape) for shape in SHAPES}


async def latency(plan: Plan) -> Measured:
    """Measure one call at a time, and an open loop at half of the capacity."""
    measured = Measured()
    ours = await _contestants(plan)
    alone = await in_turns([Rival(row, partial(ours[at].alone, kind)) for row, (kind, at) in ROWS.items()], plan.rounds)
    halves = {row: (await ours[at].full(kind)).per_second / 2 for row, (kind, at) in ROWS.items()}
    rivals = [Rival(row, partial(ours[at].offered, kind, halves[row])) for row, (kind, at) in ROWS.items()]
    for row, half in (await in_turns(rivals, plan.rounds)).items():
        measured.cells[row] = [alone[row].latency, digits(half.per_second), half.latency]
        measured.note(row, half)
    return measured


async def mixed(plan: Plan) -> Measured:
    """Measure one Create at a time next to Reads in flight, and those Reads."""
    measured = Measured()
    ours = await _contestants(plan)
    creates, reads = ({row: Rounds() for row in MIXED} for _ in range(2))
    for _ in range(plan.rounds):
        for row, (count, shape) in MIXED.items():
            one, many = await ours[shape].mixed(count)
            creates[row].append(one)
            reads[row].append(many)
    for row in MIXED:
        measured.cells[row] = [creates[row].latency, digits(reads[row].per_second), reads[row].latency]
        measured.note(row, reads[row])
    return measured


async def overload(plan: Plan) -> Measured:
    """Measure the calls a second that are answered well while more than the capacity is offered, and draw them."""
    measured, lines = Measured(), list[Line]()
    ours = await _contestants(plan)
    for row, (kind, shape) in ROWS.items():
        capacities, offered = await _offered(ours[shape], kind, plan.rounds)
        shares = [ratio(rounds, capacities, lambda one: one.per_second) for rounds in offered]
        measured.cells[row] = [digits(capacities.per_second), *(f"{share:.0%}" for share in shares)]
        measured.generator[row] = Rounds(sum(offered, capacities)).generator
        lines.append(Line(row, list(zip(OFFERED, shares, strict=True))))
    axes = Axes("offered, as times the capacity", "answered well, as times the capacity")
    measured.plots[PLOT] = plot(axes, lines)
    return measured


async def _offered(one: Contestant, kind: str, rounds: int) -> tuple[Rounds, list[Rounds]]:
    """Play rounds of the capacity, and of each load in turn; each load is a multiple of the round's own capacity."""
    capacities, offered = Rounds(), [Rounds() for _ in OFFERED]
    await one.full(kind)  # warms up
    for _ in range(rounds):
        capacities.append(await one.full(kind))
        for times, played in zip(OFFERED, offered, strict=True):
            played.append(await one.offered(kind, capacities[-1].per_second * times))
    return capacities, offered


LATENCY = Section(
    "latency",
    ("1 KiB", "one at a time: p50 / p99 ms", "half of the capacity: calls/s", "p50 / p99 ms"),
    tuple(ROWS),
    latency,
)
MIX = Section("mixed", ("1 KiB", "Create: p50 / p99 ms", "Reads/s", "Read: p50 / p99 ms"), tuple(MIXED), mixed)
OVERLOAD = Section(
    "overload",
    ("1 KiB", "capacity, calls/s", *(f"{times:g}x" for times in OFFERED)),
    tuple(ROWS),
    overload,
    ((PLOT, "Calls a second that are answered well, by what is offered, both as times the capacity"),),
)
