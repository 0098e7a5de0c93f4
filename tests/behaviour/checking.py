"""Whether what came out of a case is what the case expects."""

from dataclasses import dataclass
from typing import Any

from tests.behaviour.suite import Asked, Case


@dataclass(frozen=True)
class Ended:
    """How one thing that a client was asked to do has ended."""

    outcome: str
    seconds: float
    error: str = ""
    reason: str = ""
    revision: int = 0
    data: str = ""


def why_wrong(asked: Asked, ended: Ended) -> str:
    """Return what differs from what is expected, "" if nothing does."""
    wanted = asked.expect
    if wanted.outcome == "either":
        return ""
    low, high = wanted.seconds
    differs = [
        f"{name} {found!r} instead of {expected!r}"
        for name, expected, found in (
            ("outcome", wanted.outcome, ended.outcome),
            ("error", wanted.error, ended.error or wanted.error),
            ("reason", wanted.reason, ended.reason or wanted.reason),
            ("revision", wanted.revision, ended.revision if wanted.revision else 0),
            ("data", wanted.data, ended.data if wanted.data else ""),
        )
        if found != expected
    ]
    if not low <= ended.seconds <= high:
        differs.append(f"{ended.seconds:.1f} s instead of {low} to {high}")
    return f"{asked.do}: {', '.join(differs)}" if differs else ""


def why_wrong_calls(case: Case, report: dict[str, Any]) -> str:
    """Return what the server got that it should not have got, or the other way round; "" if all is well."""
    differs = []
    for method in sorted({*case.calls, *report["calls"]} if case.calls else ()):
        expected = case.calls.get(method, 0)
        low, high = (expected, expected) if isinstance(expected, int) else expected
        if not low <= report["calls"].get(method, 0) <= high:
            differs.append(f"{report['calls'].get(method, 0)} {method} instead of {expected}")
    if case.sealed is not None and tuple(report["sealed"]) != case.sealed:
        differs.append(f"sealed for {report['sealed']} instead of {case.sealed}")
    if case.connections is not None and not case.connections[0] <= report["connections"] <= case.connections[1]:
        differs.append(f"{report['connections']} connections instead of {case.connections}")
    return ", ".join(differs)
