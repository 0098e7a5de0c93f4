"""What a call costs, next to a no-op handler, OpenBao and etcd, all on one core and in turns.

The no-op handler is grpc.aio's own cost: it answers the same bytes at once, without interceptor, decoding or log. It
runs twice, as anybody starts it, and tuned as our server is. OpenBao and etcd run as one durable, plaintext server.
"""

from functools import partial

from benchmarks.calls import IN_FLIGHT
from benchmarks.foreign import ETCD, OPENBAO, absent
from benchmarks.others import Load, foreign_loads, noop_loads
from benchmarks.plan import Plan
from benchmarks.report import Measured, Section
from benchmarks.rivals import Rival, Rounds, digits, in_turns, ratio

READ, CREATE, KEY = "KeyVault Read", "KeyVault Create, durable", "KeyVault GenerateKey"
UPDATE, DELETE = "KeyVault Update, durable", "KeyVault Delete, durable"
NOOP, TUNED = "no-op handler", "no-op handler, tuned"
NOOPS = {f"{NOOP}, a Read's answer": ("Read", False), f"{TUNED}, a Read's answer": ("Read", True)} | {
    f"{NOOP}, a Create's answer": ("Create", False),
    f"{TUNED}, a Create's answer": ("Create", True),
}
BAO = {f"{OPENBAO} kv2 read": "read", f"{OPENBAO} kv2 put, durable": "put", f"{OPENBAO} transit datakey": "datakey"}
ETCDS = {f"{ETCD} Range": "Range", f"{ETCD} Put, durable": "Put"}
GROUPS = {
    READ: (*[title for title in NOOPS if "Read" in title], f"{OPENBAO} kv2 read", f"{ETCD} Range"),
    CREATE: (*[title for title in NOOPS if "Create" in title], f"{OPENBAO} kv2 put, durable", f"{ETCD} Put, durable"),
    UPDATE: (),
    DELETE: (),
    KEY: (f"{OPENBAO} transit datakey",),
}
"""Our calls, and what each is compared with."""
_KINDS = {READ: "Read", CREATE: "Create", UPDATE: "Update", DELETE: "Delete", KEY: "GenerateKey"}


async def measure(plan: Plan) -> Measured:
    """Measure each group in turns, all servers running."""
    measured = Measured(notes=[said for title in (OPENBAO, ETCD) if (said := absent(title))])
    ours, others = await plan.contestant("plain"), await _others(plan)
    for title, against in GROUPS.items():
        rivals = [Rival(title, partial(ours.full, _KINDS[title]))]
        rivals += [Rival(other, others[other].play) for other in against if other in others]
        played = await in_turns(rivals, plan.rounds)
        for name, rounds in played.items():
            measured.cells[name] = _cells(rounds, played[title])
            measured.note(name, rounds)
    return measured


async def _others(plan: Plan) -> dict[str, Load]:
    """Start what is installed, and return the loads by their titles."""
    ours, others = await plan.contestant("plain"), dict[str, Load]()
    for tuned in (False, True):
        loads = await noop_loads(plan, ours.requests, tuned=tuned)
        others |= {title: loads[kind] for title, (kind, tuning) in NOOPS.items() if tuning is tuned}
    for name, titles in ((OPENBAO, BAO), (ETCD, ETCDS)):
        if not absent(name):
            loads = await foreign_loads(plan, name)
            others |= {title: loads[kind] for title, kind in titles.items()}
    return others


def _cells(rounds: Rounds, ours: Rounds) -> list[str]:
    cpu = rounds.cpu_microseconds
    against = "1" if rounds is ours else f"{ratio(rounds, ours, lambda one: one.cpu_microseconds):.2f}"
    return [digits(1e6 / cpu), digits(cpu), against, digits(rounds.per_second), rounds.latency]


CALLS = Section(
    "calls",
    (
        f"{IN_FLIGHT} calls in flight, 1 KiB",
        "calls a core-second",
        "CPU us",
        "CPU, ours = 1",
        "calls/s",
        "p50 / p99 ms",
    ),
    tuple(title for ours, others in GROUPS.items() for title in (ours, *others)),
    measure,
)
