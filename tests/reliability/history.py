"""What happened to a vault's records, in the words that model and checker understand; see `linearizability.py`.

The rule of this file: envelopes and data keys are names here ("e7", "k2"), never bytes. An operation is one attempt: a
call that is retried is another operation with the same request.
"""

import math
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from typing import TypeAlias

from keyvault_api.envelope import Kind


@dataclass(frozen=True, slots=True)
class Sealed:
    """An envelope, by what its sealer knows of it."""

    name: str
    """One for each run of bytes."""
    kind: Kind
    revision: int
    key: str
    """The data key that it opens under."""
    record: str
    """The record that it was sealed for."""
    permits: str = ""
    """The envelope whose digest a REKEY envelope holds."""

    def __str__(self) -> str:
        permits = f" permitting {self.permits}" if self.permits else ""
        return f"{self.name}({self.kind.name} {self.revision} under {self.key} for {self.record}{permits})"


@dataclass(frozen=True, slots=True)
class Write:
    """Create, Update or Delete."""

    method: str
    key: str
    """The data key in the wrapped key that is presented; `model.FORGED` begins what does not unwrap."""
    envelope: Sealed
    history: int = 0
    """How many earlier revisions the server that is asked keeps readable at an Update."""

    def __str__(self) -> str:
        return f"{self.method} {self.envelope} by {self.key}{f' keeping {self.history}' * bool(self.history)}"


@dataclass(frozen=True, slots=True)
class Rotate:
    """RotateKey."""

    key: str
    permit: Sealed
    new_key: str
    envelope: Sealed

    def __str__(self) -> str:
        return f"rotate_key {self.envelope} from {self.key} to {self.new_key} by {self.permit}"


@dataclass(frozen=True, slots=True)
class Read:
    """Read."""

    known_revision: int = 0
    include_deleted: bool = False
    revision: int = 0
    """0: the current one."""

    def __str__(self) -> str:
        knowing = f" knowing {self.known_revision}" * bool(self.known_revision)
        return f"read{f' of {self.revision}' * bool(self.revision)}{knowing}{' all' * self.include_deleted}"


@dataclass(frozen=True, slots=True)
class ListRevisions:
    """ListRevisions."""

    def __str__(self) -> str:
        return "list_revisions"


@dataclass(frozen=True, slots=True)
class Look:
    """What a page of a List shows of one of the names between its first and its last one."""

    deleted: bool = False
    """Whether deleted names are listed."""

    def __str__(self) -> str:
        return f"list{' deleted' * self.deleted}"


@dataclass(frozen=True, slots=True)
class Purge:
    """What an operator does to a lost name."""

    def __str__(self) -> str:
        return "purge"


Request: TypeAlias = Write | Rotate | Read | ListRevisions | Look | Purge
CHANGES = (Write, Rotate, Purge)
"""Requests that can have an effect."""


@dataclass(frozen=True, slots=True)
class Done:
    """The answer to an accepted mutation, and, with the revision that stays, to a purge."""

    revision: int
    replayed: bool = False

    def __str__(self) -> str:
        return f"done at {self.revision}{', replayed' * self.replayed}"


@dataclass(frozen=True, slots=True)
class Got:
    """The answer to a Read."""

    revision: int
    envelope: str
    """"": not modified."""
    deleted: bool = False

    def __str__(self) -> str:
        return f"{self.envelope or 'not modified'} at {self.revision}{', deleted' * self.deleted}"


@dataclass(frozen=True, slots=True)
class Kept:
    """The answer to ListRevisions."""

    revisions: tuple[int, ...]

    def __str__(self) -> str:
        return f"revisions {', '.join(map(str, self.revisions))}"


@dataclass(frozen=True, slots=True)
class Seen:
    """Whether a page has the name."""

    listed: bool

    def __str__(self) -> str:
        return "listed" if self.listed else "not listed"


@dataclass(frozen=True, slots=True)
class OperatorError:
    """A definite refusal, by the reason of its ErrorInfo."""

    reason: str
    current_revision: int | None = None

    def __str__(self) -> str:
        return self.reason if self.current_revision is None else f"{self.reason} current {self.current_revision}"


@dataclass(frozen=True, slots=True)
class Unknown:
    """No definite answer: it may take effect at any later time, or never."""

    why: str = ""

    def __str__(self) -> str:
        return f"unknown {self.why}".rstrip()


Answer: TypeAlias = Done | Got | Kept | Seen | OperatorError | Unknown


@dataclass(frozen=True, slots=True)
class Operation:
    """One attempt at one record. Times are seconds of one clock."""

    record: str
    request: Request
    answer: Answer
    called: float
    returned: float = math.inf
    """Infinite for an unknown outcome."""
    who: str = ""
    """Who called whom; for the reader alone."""

    def __str__(self) -> str:
        until = "     ..." if math.isinf(self.returned) else f"{self.returned:8.4f}"
        return f"{self.called:8.4f} -{until}  {self.who:7}  {self.record}: {self.request}: {self.answer}"


History: TypeAlias = list[Operation]


class Recorder:
    """Gathers a history while it happens."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.now = clock
        """The time of the clock that all times are of."""
        self.history: History = []

    async def record(self, who: str, record: str, request: Request, call: Awaitable[Answer]) -> Answer:
        """Awaits one attempt and notes it. An unknown outcome has no end."""
        called = self.now()
        answer = await call
        self.note(who, record, request, answer, called)
        return answer

    def note(self, who: str, record: str, request: Request, answer: Answer, called: float) -> None:
        """Notes one attempt that has just been answered, or was given up."""
        returned = math.inf if isinstance(answer, Unknown) else self.now()
        self.history.append(Operation(record, request, answer, called, returned, who))


def by_record(history: Iterable[Operation]) -> dict[str, History]:
    """A vault is linearizable iff each of its records is (locality: Herlihy and Wing 1990, theorem 1)."""
    records: dict[str, History] = {}
    for operation in history:
        records.setdefault(operation.record, []).append(operation)
    return records


def readable(history: Iterable[Operation], since: float | None = None) -> str:
    """A line an operation, in the order of their calls; times since then, or since the first call."""
    ordered = sorted(history, key=lambda operation: operation.called)
    if since is None:
        since = ordered[0].called if ordered else 0.0
    return "\n".join(str(replace(one, called=one.called - since, returned=one.returned - since)) for one in ordered)
