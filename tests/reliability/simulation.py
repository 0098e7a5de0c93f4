"""Deterministic simulation: real vaults, a store and a key service behind an unreliable network, in virtual time.

    python -m tests.reliability.simulation --histories 100000       the figure: how many of so many histories are wrong
    python -m tests.reliability.simulation --seed 17                one history, readable
    python -m tests.reliability.simulation --seed 17 --bug no-ring  one history of a vault with a seeded bug
    python -m tests.reliability.simulation --bugs                   how soon, and how often, each bug is caught

One seed is one schedule (`schedule.py`).
"""

# ruff: noqa: T201 - a command prints

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial

from tests.reliability.bugs import BUGS
from tests.reliability.deployment import Deployment
from tests.reliability.history import Answer, Done, OperatorError, readable
from tests.reliability.linearizability import NotLinearizable, check
from tests.reliability.schedule import simulate

CHUNK = 500
"""Histories that a process takes on at a time."""


@dataclass
class Report:
    """What a range of seeds came to."""

    histories: int = 0
    wrong: list[int] = field(default_factory=list)
    """The seeds whose histories are not linearizable."""
    answers: Counter[str] = field(default_factory=Counter)
    """How often each was given."""
    met: Counter[str] = field(default_factory=Counter)
    """How often each trouble was met on the way."""

    def add(self, other: "Report") -> None:
        """Takes another report in."""
        self.histories += other.histories
        self.wrong += other.wrong
        self.answers.update(other.answers)
        self.met.update(other.met)


def examine(seeds: Iterable[int], bug: str | None = None) -> Report:
    """Simulates each seed and checks its history."""
    report = Report()
    for seed in seeds:
        history, met = simulate(seed, _deployment(bug))
        report.histories += 1
        report.met.update(met)
        report.answers.update(_name(one.answer) for one in history)
        try:
            check(BUGS[bug].evidence(history) if bug else history)
        except NotLinearizable:
            report.wrong.append(seed)
    return report


def examine_in_processes(seeds: range, processes: int, bug: str | None = None) -> Report:
    """As `examine`, on several cores."""
    report = Report()
    chunks: Iterator[range] = (seeds[at : at + CHUNK] for at in range(0, len(seeds), CHUNK))
    with ProcessPoolExecutor(processes) as pool:
        for part in pool.map(partial(examine, bug=bug), chunks):
            report.add(part)
    return report


def main(arguments: list[str] | None = None) -> int:
    """The command line. Returns 1 if a history is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="the first seed, or the only one")
    parser.add_argument("--histories", type=int, help="how many seeds")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--bug", choices=BUGS, help="simulate a vault with this seeded bug")
    parser.add_argument("--bugs", action="store_true", help="try every seeded bug, on 1,000 histories by default")
    chosen = parser.parse_args(arguments)
    if chosen.bugs:
        return _show_bugs(chosen.histories or 1000, chosen.processes)
    if chosen.histories is None:
        return _show(chosen.seed, chosen.bug)
    return _figure(range(chosen.seed, chosen.seed + chosen.histories), chosen.processes, chosen.bug)


def _figure(seeds: range, processes: int, bug: str | None) -> int:
    started = time.monotonic()
    report = examine_in_processes(seeds, processes, bug)
    print(f"simulated histories: {report.histories:,}, seeds {seeds.start} to {seeds.stop - 1}")
    print(f"answers: {_listed(report.answers)}")
    print(f"troubles: {_listed(report.met)}")
    print(f"not linearizable: {len(report.wrong)}", *report.wrong[:20])
    print(f"seconds: {time.monotonic() - started:.0f}, with {processes} processes")
    return 1 if report.wrong else 0


def _show(seed: int, bug: str | None) -> int:
    history, met = simulate(seed, _deployment(bug))
    print(readable(history))
    print(f"seed {seed}: {len(history)} attempts", *(f"{name} {count}" for name, count in met.items()), sep=", ")
    try:
        check(history)
    except NotLinearizable as wrong:
        print(wrong)
        return 1
    print("linearizable")
    return 0


def _show_bugs(histories: int, processes: int) -> int:
    """A row of the table in docs/reliability.md for each bug. Returns 1 if one is not caught."""
    missed = 0
    for name, bug in BUGS.items():
        wrong = examine_in_processes(range(histories), processes, name).wrong
        missed += not wrong
        took = wrong[0] + 1 if wrong else "not caught"
        test = f"test_a_seeded_bug_is_caught[{name}]"
        print(f"| `{name}` | {bug.wrong} | `{test}` | {took} | {len(wrong)} |", flush=True)
    return 1 if missed else 0


def _deployment(bug: str | None) -> Deployment:
    return BUGS[bug].deployment if bug else Deployment()


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.most_common())


def _name(answer: Answer) -> str:
    match answer:
        case OperatorError(reason):
            return reason
        case Done(_, replayed):
            return "replayed" if replayed else "done"
        case _:
            return type(answer).__name__.lower()


if __name__ == "__main__":
    sys.exit(main())
