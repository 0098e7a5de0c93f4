"""What one record does, one operation at a time: the sequential specification that histories are held against.

Written from the rule and the order of checks as keyvault.proto states them, not from the server, of which it imports
nothing. It is deterministic: a state and a request have exactly one answer and one next state.
"""

from dataclasses import dataclass

from keyvault_api.envelope import Kind
from tests.reliability.history import (
    Answer,
    Done,
    Got,
    Kept,
    ListRevisions,
    Look,
    OperatorError,
    Purge,
    Read,
    Request,
    Rotate,
    Sealed,
    Seen,
    Write,
)

RING = 16
"""Accepted envelopes, the stored one included, that are known when they come again."""

FORGED = "x"
"""The names of wrapped keys that may not unwrap for the caller's tenant and the record's scope begin so."""

_NOT_FOUND = OperatorError("RECORD_NOT_FOUND")
_NOT_AUTHORIZED = OperatorError("NOT_AUTHORIZED")
_NOT_UNDER_KEY = OperatorError("ENVELOPE_NOT_UNDER_KEY")
_SAME_DATA_KEY = OperatorError("SAME_DATA_KEY")


@dataclass(frozen=True, slots=True)
class State:
    """What is stored of a record."""

    revision: int = 0
    """0: the name was never used."""
    stored: Sealed | None = None
    """None: never used, or purged."""
    ring: tuple[str, ...] = ()
    """The last accepted envelopes, newest first."""
    since: int = 0
    """The oldest revision that can be read, if the record is live."""

    def __str__(self) -> str:
        stored = self.stored or ("vacant" if self.revision else "absent")
        return f"{stored} at {self.revision} since {self.since}, ring {list(self.ring)}"

    @property
    def live(self) -> bool:
        """Whether Read finds the record."""
        return self.stored is not None and self.stored.kind is Kind.DATA


def apply(record: str, state: State, request: Request) -> tuple[State, Answer]:
    """The next state, equal to this one if nothing changes, and the answer."""
    match request:
        case Read():
            return state, _read_earlier(state, request.revision) if request.revision else _read(state, request)
        case ListRevisions():
            revisions = Kept(tuple(range(state.revision, state.since - 1, -1)))
            return state, revisions if state.live else _NOT_FOUND
        case Look():
            return state, Seen(state.stored is not None and state.live is not request.deleted)
        case Purge():
            return _purge(state)
        case _:
            return _mutate(record, state, request)


def _read(state: State, request: Read) -> Answer:
    stored = state.stored
    if stored is None or (stored.kind is Kind.TOMBSTONE and not request.include_deleted):
        return _NOT_FOUND
    envelope = "" if request.known_revision == state.revision else stored.name
    return Got(state.revision, envelope, stored.kind is Kind.TOMBSTONE)


def _read_earlier(state: State, revision: int) -> Answer:
    if not state.live:
        return _NOT_FOUND
    if not state.since <= revision <= state.revision:
        return OperatorError("REVISION_NOT_FOUND", state.revision)
    return Got(revision, state.ring[state.revision - revision])


def _purge(state: State) -> tuple[State, Answer]:
    if not state.revision:
        return state, _NOT_FOUND
    return State(state.revision, since=state.revision), Done(state.revision)


def _mutate(record: str, state: State, request: Write | Rotate) -> tuple[State, Answer]:
    envelope = request.envelope
    if envelope.name in state.ring:
        return state, _replay(record, request)
    refused = _revision(state, request) or _ownership(state, request) or _opens(record, request)
    if refused:
        return state, refused
    ring = (envelope.name, *state.ring)[:RING]
    return State(envelope.revision, envelope, ring, _since(state, request)), Done(envelope.revision)


def _since(state: State, request: Write | Rotate) -> int:
    """An Update keeps as many earlier revisions as its server is set to; nothing else keeps any."""
    if isinstance(request, Write) and request.method == "update":
        return max(state.since, request.envelope.revision - request.history)
    return request.envelope.revision


def _replay(record: str, request: Write | Rotate) -> Answer:
    """An envelope that was accepted is not accepted again; a caller that cannot open it is not its author."""
    refused = _opens(record, request)
    if refused == _NOT_UNDER_KEY:
        return _NOT_AUTHORIZED
    return refused or Done(request.envelope.revision, replayed=True)


def _revision(state: State, request: Write | Rotate) -> OperatorError | None:
    creates = isinstance(request, Write) and request.method == "create"
    if creates and state.live:
        return OperatorError("RECORD_EXISTS", state.revision)
    if not creates and not state.live:
        return _NOT_FOUND
    if request.envelope.revision != state.revision + 1:
        return OperatorError("STALE_REVISION", state.revision)
    return None


def _ownership(state: State, request: Write | Rotate) -> OperatorError | None:
    """A tombstone has an owner; a name that was never used, or was purged, has none."""
    owned = state.stored is None or state.stored.key == request.key
    return None if owned and _unwraps(request) else _NOT_AUTHORIZED


def _opens(record: str, request: Write | Rotate) -> OperatorError | None:
    """Of a replay and of a new envelope alike: do the keys unwrap, and does all that has to open under them?"""
    if not _unwraps(request):
        return _NOT_AUTHORIZED
    if not isinstance(request, Rotate):
        return None if _under(request.envelope, request.key, record) else _NOT_UNDER_KEY
    if request.key == request.new_key:
        return _SAME_DATA_KEY
    permitted = _under(request.permit, request.key, record) and request.permit.permits == request.envelope.name
    return None if permitted and _under(request.envelope, request.new_key, record) else _NOT_UNDER_KEY


def _unwraps(request: Write | Rotate) -> bool:
    keys = (request.key, request.new_key) if isinstance(request, Rotate) else (request.key,)
    return not any(key.startswith(FORGED) for key in keys)


def _under(envelope: Sealed, key: str, record: str) -> bool:
    return (envelope.key, envelope.record) == (key, record)
