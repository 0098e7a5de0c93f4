"""What a refused call costs, next to a Read, and next to a handler that only refuses.

The latter is grpc.aio's own cost: no refusal can be cheaper.
"""

from functools import partial

from benchmarks.calls import IN_FLIGHT
from benchmarks.others import noop_loads
from benchmarks.plan import Plan
from benchmarks.report import Measured, Section
from benchmarks.rivals import Rival, digits, in_turns, ratio

READ, FLOOR = "Read, production shape", "no-op handler, tuned, that refuses at once, plaintext"
ROWS = {
    READ: "Read",
    "RATE_LIMITED, production shape": "RateLimited",
    "POLICY_DENIED, production shape": "PolicyDenied",
    "UNAUTHENTICATED, production shape": "Unauthenticated",
}


async def measure(plan: Plan) -> Measured:
    """Measure all in turns."""
    measured, ours = Measured(), await plan.contestant("production")
    rivals = [Rival(row, partial(ours.full, kind)) for row, kind in ROWS.items()]
    noops = await noop_loads(plan, (await plan.contestant("plain")).requests, tuned=True)
    played = await in_turns([*rivals, Rival(FLOOR, noops["Delete"].play)], plan.rounds)
    for row, rounds in played.items():
        against = ratio(rounds, played[READ], lambda one: one.cpu_microseconds)
        measured.cells[row] = [digits(rounds.cpu_microseconds), "1" if row == READ else f"{against:.2f}"]
        measured.note(row, rounds)
    return measured


REFUSED = Section("refusals", (f"{IN_FLIGHT} calls in flight", "CPU us", "CPU, a Read = 1"), (*ROWS, FLOOR), measure)
