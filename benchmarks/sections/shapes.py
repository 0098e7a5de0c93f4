"""What a call costs in each shape that operators run, and by the size of its value."""

from functools import partial

from benchmarks.calls import IN_FLIGHT
from benchmarks.others import bare_get_item
from benchmarks.plan import Plan
from benchmarks.report import Measured, Section
from benchmarks.rivals import Rival, digits, in_turns, ratio
from benchmarks.servers import LATENCIES, aws_stand_in

KINDS = ("Read", "GenerateKey", "Create")
SHAPES = {"plain": "plaintext", "tls": "TLS", "production": "mTLS, policy and audit log"}
ROWS = {f"{kind}, {title}": (kind, shape) for kind in KINDS for shape, title in SHAPES.items()}
SIZES = {"100 B": 100, "1 KiB": 1024, "64 KiB": 64 * 1024, "380 kB": 380_000}
BYTES = {f"{kind} of {title}": (kind, size) for kind in ("Read", "Create") for title, size in SIZES.items()}
AWS_KINDS = (*KINDS, "Update")
BARE = "aioboto3 alone, GetItem"


def _aws_row(kind: str, shape: str) -> str:
    return f"{kind}, AWS answers after {LATENCIES[shape]:g} ms"


async def shapes(plan: Plan) -> Measured:
    """Measure each kind of call in each shape, the shapes in turns."""
    measured = Measured()
    ours = {shape: await plan.contestant(shape) for shape in SHAPES}
    for kind in KINDS:
        rows = {row: shape for row, (its, shape) in ROWS.items() if its == kind}
        played = await in_turns([Rival(row, partial(ours[at].full, kind)) for row, at in rows.items()], plan.rounds)
        first = next(iter(played.values()))
        for row, rounds in played.items():
            cpu = rounds.cpu_microseconds
            against = "1" if rounds is first else f"{ratio(rounds, first, lambda one: one.cpu_microseconds):.2f}"
            measured.cells[row] = [digits(1e6 / cpu), digits(cpu), against, rounds.latency]
            measured.note(row, rounds)
    return measured


async def sizes(plan: Plan) -> Measured:
    """Measure Reads and Creates of each size, the sizes in turns."""
    measured = Measured()
    ours = {size: await plan.contestant("plain", size, min(1_000.0, 20_000_000 / size)) for size in SIZES.values()}
    rivals = [Rival(row, partial(ours[size].full, kind)) for row, (kind, size) in BYTES.items()]
    for row, rounds in (await in_turns(rivals, plan.rounds)).items():
        cpu, (_, size) = rounds.cpu_microseconds, BYTES[row]
        measured.cells[row] = [digits(1e6 / cpu), digits(cpu), digits(size / cpu)]
        measured.note(row, rounds)
    return measured


async def aws(plan: Plan) -> Measured:
    """Measure calls on the AWS backend, at two latencies of AWS, in turns with aioboto3 alone."""
    measured = Measured()
    for shape, latency in LATENCIES.items():
        ours, folder = await plan.contestant(shape), plan.folder / f"bare-{shape}"
        folder.mkdir()
        settings = plan.stack.enter_context(aws_stand_in(folder, latency))
        endpoint, bare = settings["KEYVAULT_AWS_DYNAMODB_ENDPOINT"], _aws_row(BARE, shape)
        rivals = [Rival(bare, partial(bare_get_item, endpoint, plan.seconds))]
        rivals += [Rival(_aws_row(kind, shape), partial(ours.full, kind)) for kind in AWS_KINDS]
        played = await in_turns(rivals, plan.rounds)
        for row, rounds in played.items():
            cpu = rounds.cpu_microseconds
            against = ratio(rounds, played[bare], lambda one: one.cpu_microseconds)
            measured.cells[row] = [digits(1e6 / cpu), digits(cpu), "1" if row == bare else f"{against:.2f}"]
            measured.cells[row] += [digits(rounds.per_second), rounds.latency]
            if row != bare:
                measured.note(row, rounds)
    return measured


COST = ("calls a core-second", "CPU us")
SHAPE = Section(
    "shapes",
    (f"{IN_FLIGHT} calls in flight, 1 KiB", *COST, "CPU, plaintext = 1", "p50 / p99 ms"),
    tuple(ROWS),
    shapes,
)
SIZE = Section("sizes", (f"{IN_FLIGHT} calls in flight, plaintext", *COST, "MB a core-second"), tuple(BYTES), sizes)
CLOUD = Section(
    "aws",
    (f"{IN_FLIGHT} calls in flight, 1 KiB", *COST, "CPU, aioboto3 = 1", "calls/s", "p50 / p99 ms"),
    tuple(_aws_row(kind, shape) for shape in LATENCIES for kind in (BARE, *AWS_KINDS)),
    aws,
)
