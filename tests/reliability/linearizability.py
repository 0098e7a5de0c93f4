"""A linearizability checker for one record: Wing and Gong's search, with Lowe's memory of what was tried.

It looks for an order of the operations in which each gives the answer that it gave, and in which none stands before
one that had ended when it began. An operation of unknown outcome may stand anywhere after its call, or nowhere. Three
things keep the search short, and `test_linearizability.py` compares with a search that has none of them: an answer
that fits now and changes nothing is taken at once, since it constrains nobody; an unknown outcome without effect is
the same as none; of unknown outcomes with equal requests the one that was called first goes first.

Source: Wing and Gong, "Testing and Verifying Concurrent Objects" (1993); Lowe, "Testing for Linearizability" (2017).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tests.reliability.history import CHANGES, History, Operation, OperatorError, Request, Unknown, by_record, readable
from tests.reliability.model import State, apply

SAYS_NOTHING = frozenset(
    {"BACKEND_THROTTLED", "RATE_LIMITED", "MASTER_KEY_UNUSABLE", "STORE_FULL", "HEAD_CHANGED", "BATCH_FULL"}
)
"""Refusals that depend on no record: surely nothing was done."""


class NotLinearizable(AssertionError):
    """No order explains the history. Its text shows the history, and how far the best attempt came."""

    def __init__(self, history: Sequence[Operation], placed: Sequence[Operation], state: State) -> None:
        since = min(one.called for one in history)
        left = [one for one in history if one not in placed and _constrains(one) and not math.isinf(one.returned)]
        super().__init__(
            f"no order explains this history:\n{readable(history)}\n"
            f"the best attempt places {len(placed)} operations, the last of them\n{readable(placed[-1:], since)}\n"
            f"and finds: {state}\nthese do not fit there:\n{readable(left, since)}"
        )
        self.history = history


@dataclass(frozen=True, slots=True)
class _Node:
    """A place in the search: which operations are placed (a bit each), what is stored then, and how it got there."""

    placed: int
    state: State
    last: Operation | None = None
    before: "_Node | None" = None

    def path(self) -> History:
        node, path = self, []
        while node.before is not None and node.last is not None:
            path.append(node.last)
            node = node.before
        return path[::-1]


def check(history: Sequence[Operation]) -> None:
    """Raises NotLinearizable if one of the history's records is not linearizable."""
    for operations in by_record(history).values():
        explain(operations)


def explain(history: Sequence[Operation]) -> History:
    """An order that explains the history of one record. Raises NotLinearizable."""
    return _Search(history).run()


class _Search:
    def __init__(self, history: Sequence[Operation]) -> None:
        self._history = history
        self._operations = sorted((one for one in history if _constrains(one)), key=lambda one: one.called)
        self._goal = sum(1 << at for at, one in enumerate(self._operations) if not isinstance(one.answer, Unknown))
        self._twins = _twins(self._operations)

    def run(self) -> History:
        best = start = _Node(0, State())
        waiting, seen = [start], set[tuple[int, State]]()
        while waiting:
            node = self._settled(waiting.pop())
            if node.placed & self._goal == self._goal:
                return node.path()
            if (node.placed, node.state) in seen:
                continue
            seen.add((node.placed, node.state))
            best = max(best, node, key=lambda one: one.placed.bit_count())
            waiting += self._effects(node)
        raise NotLinearizable(self._history, best.path(), best.state)

    def _settled(self, node: _Node) -> _Node:
        """Takes every answer that fits now and changes nothing, until there is none."""
        while True:
            for at, operation in self._next(node.placed):
                if apply(operation.record, node.state, operation.request) == (node.state, operation.answer):
                    node = _Node(node.placed | 1 << at, node.state, operation, node)
                    break
            else:
                return node

    def _effects(self, node: _Node) -> Iterator[_Node]:
        """Where one operation that changes the record leads."""
        for at, operation in self._next(node.placed):
            state, answer = apply(operation.record, node.state, operation.request)
            if state != node.state and (isinstance(operation.answer, Unknown) or operation.answer == answer):
                yield _Node(node.placed | 1 << at, state, operation, node)

    def _next(self, placed: int) -> Iterator[tuple[int, Operation]]:
        """The operations that may come next: none that is left had ended when they were called."""
        earliest_end = math.inf
        for at, operation in enumerate(self._operations):
            if operation.called > earliest_end:
                return
            if placed >> at & 1 or self._twins[at] & ~placed:
                continue
            earliest_end = min(earliest_end, operation.returned)
            yield at, operation


def _twins(operations: Sequence[Operation]) -> list[int]:
    """For each operation of unknown outcome, the bit of the last one before it with the same request; else 0."""
    latest: dict[Request, int] = {}
    twins = []
    for at, operation in enumerate(operations):
        unknown = isinstance(operation.answer, Unknown)
        twins.append(latest.get(operation.request, 0) if unknown else 0)
        if unknown:
            latest[operation.request] = 1 << at
    return twins


def _constrains(operation: Operation) -> bool:
    if isinstance(operation.answer, Unknown):
        return isinstance(operation.request, CHANGES)
    return not isinstance(operation.answer, OperatorError) or operation.answer.reason not in SAYS_NOTHING
