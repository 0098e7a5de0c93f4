"""Callers who read many records in one call, and what such a call may answer as a whole.

The rule of this file: each item of a BatchRead is an operation of its own, at some moment of the call. Together they
are no snapshot, but they share one reply: its size is bounded, and what did not fit costs nothing.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from tests.reliability.history import Answer, Got, OperatorError, Read, Recorder

REPLY = 1024 * 1024
"""Bytes of envelopes that fit into one reply."""
FULL = OperatorError("BATCH_FULL")


@dataclass(frozen=True, slots=True)
class Item:
    """One Read of a batch."""

    record: str
    read: Read


ReadMany: TypeAlias = Callable[[Sequence[Item]], Awaitable[Sequence[Answer]]]
"""One BatchRead: an answer for each item, in order; a call that fails as a whole is the same answer for all."""


def misfit(answers: Sequence[Answer], sizes: Sequence[int]) -> str:
    """What is wrong with a reply as a whole, "" if nothing; `sizes` are of the envelopes that it holds."""
    first = answers.index(FULL) if FULL in answers else len(answers)
    if sum(sizes) > REPLY and sum(map(bool, sizes)) > 1:
        return f"the reply holds {sum(sizes)} bytes of envelopes"
    if first < len(answers) and not any(sizes[:first]):
        return "the reply is full and holds no envelope"
    if any(isinstance(answer, Got) for answer in answers[first:]):
        return "an item behind a full reply is in it"
    return ""


class Reader:
    """Reads some of the records at a time, now and then knowing a revision; never twice the same way."""

    def __init__(
        self, name: str, rng: random.Random, recorders: Mapping[str, Recorder], servers: Sequence[ReadMany]
    ) -> None:
        """`recorders` has one for each record; several may be the same."""
        self._name = name
        self._rng = rng
        self._recorders = recorders
        self._servers = servers
        self._known: dict[str, int] = {}

    async def run(self, calls: int, think: float) -> None:
        """So many BatchReads, `think` mean seconds apart."""
        for _ in range(calls):
            await asyncio.sleep(self._rng.expovariate(1 / think))
            await self._read(self._choose())

    def _choose(self) -> Sequence[Item]:
        records = list(self._recorders)
        some = self._rng.sample(records, self._rng.choice((min(2, len(records)), len(records))))
        return [Item(record, Read(self._revision(record), self._rng.random() < 0.5)) for record in some]

    def _revision(self, record: str) -> int:
        return self._known.get(record, 0) if self._rng.random() < 0.3 else 0

    async def _read(self, items: Sequence[Item]) -> None:
        at = self._rng.randrange(len(self._servers))
        called = self._recorders[items[0].record].now()
        for item, answer in zip(items, await self._servers[at](items), strict=True):
            self._recorders[item.record].note(f"{self._name}>s{at + 1}", item.record, item.read, answer, called)
            if isinstance(answer, Got):
                self._known[item.record] = answer.revision
