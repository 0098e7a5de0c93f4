"""Whether a record store holds what the audit logs say that the vault made of it: an operator's walk over all of it.

The rules of this file. What the vault answered OK is written; what it refused is not; an intent without an outcome, or
with one that means "unknown", leaves both possible. Nothing depends on the order of several logs: all is merged by
name and revision, since no (tenant, key_id, revision) is ever used twice. Every intent also says which head it is
written over, so that a record which was swapped behind the vault's back is found even after the vault wrote over it.
Replicas may be at work: a record may be newer than a log was when it was read, so doubts are judged once more, on what
the logs have by the end of the walk. Memory grows with the mutations in the logs, by about 0.7 kB each.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from keyvault_server.audit.key import AuditKey
from keyvault_server.audit.line import VACANCY, Fields, envelope_value, head_value, name_value
from keyvault_server.audit.reading import PATIENCE, LogReader, Place, open_logs
from keyvault_server.core.errors import RecordCorrupt
from keyvault_server.core.ports import RecordStore, Walked
from keyvault_server.core.records import DIGEST_SIZE, VACANCY_SIZE, Record, State, digest, state_of

_UNKNOWN = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED", "INTERNAL", "UNKNOWN"})
"""Statuses after which a write may have been done; after any other but OK it surely was not."""


class Finding(NamedTuple):
    """One record that is not as the logs have it; str() is one sentence."""

    name: str
    """Tenant and key_id; where the store has none, the HMAC that stands for it in the logs."""
    why: str

    def __str__(self) -> str:
        return f"{self.name}: {self.why}"


@dataclass(slots=True)
class StoreReport:
    """What `against_store` found."""

    records: int = 0
    findings: list[Finding] = field(default_factory=list)
    vacancies: list[str] = field(default_factory=list)
    """Names that were made vacant, and no log says by whom: compare with the purges that were ordered."""


class _Outcome(Enum):
    UNKNOWN = 0
    REFUSED = 1
    REPLAYED = 2
    """Stored by an attempt whose own outcome is unknown: these bytes were recognised later."""
    WRITTEN = 3


@dataclass(slots=True)
class _Attempt:
    """An envelope that the vault proved for one name and revision."""

    envelope: str
    place: Place
    outcome: _Outcome = _Outcome.UNKNOWN
    head: str | None = None
    """None: known from a replay alone."""
    over: str | None = None
    """The head that was stored before; None also if nothing was."""

    @property
    def stored(self) -> bool:
        return self.outcome in (_Outcome.REPLAYED, _Outcome.WRITTEN)


@dataclass(slots=True)
class _Name:
    """What the logs say of one name."""

    shown: str
    attempts: dict[int, list[_Attempt]] = field(default_factory=dict)
    purged: set[int] = field(default_factory=set)
    """The revisions that audited purges left."""
    floor: int = 0
    """The store had this revision when the walk began, or a newer one."""
    met: bool = False

    def possible(self, revision: int) -> list[_Attempt]:
        """What may be stored at a revision: what surely was; else all that may have been."""
        attempts = self.attempts.get(revision, [])
        stored = [attempt for attempt in attempts if attempt.stored]
        return stored or [attempt for attempt in attempts if attempt.outcome is _Outcome.UNKNOWN]

    def heads(self, revision: int) -> set[str | None]:
        """The heads of what may be stored at a revision, None among them if one of them is not known."""
        possible = {attempt.envelope for attempt in self.possible(revision)}
        known = {a.envelope: a.head for a in self.attempts.get(revision, []) if a.head}
        return {known.get(envelope) for envelope in possible}


class _Sighting(NamedTuple):
    """A record that the walk met, without its body."""

    tenant: str
    key_id: str
    state: State | None
    """None: no record."""
    ring: bytes
    fits: bool
    """The envelope is the one that the ring begins with."""


async def against_store(
    paths: Sequence[Path], key: AuditKey, records: RecordStore, *, patience: float = PATIENCE
) -> StoreReport:
    """Holds the store against these logs, which have to be all that were ever written about it.

    Raises BadPlace for a log that is not whole (`verify` first: it also holds the logs against checkpoints), and what
    the store's walk raises.
    """
    report, doubts, history = StoreReport(), [], _History(key)
    with open_logs(paths, key, patience=patience) as readers:
        history.read(readers)
        history.set_floors()
        async for walked in records.walk():
            report.records += 1
            sighting = _sighted(walked)
            if history.judge(sighting, report) is not None:
                doubts.append(sighting)
        history.read(readers)
    for sighting in doubts:
        if why := history.judge(sighting, report):
            report.findings.append(Finding(f"{sighting.tenant} {sighting.key_id}", why))
    report.findings += [*history.vanished(), *history.contradictions(report)]
    return report


class _History:
    """All mutations of the logs, by name and revision."""

    def __init__(self, key: AuditKey) -> None:
        self._key = key
        self._names: dict[str, _Name] = {}
        self._open: dict[tuple[str, int], _Attempt] = {}
        """Intents without an outcome, by log and seq."""

    def read(self, readers: Sequence[LogReader]) -> None:
        """Takes in what the logs have by now. Raises BadPlace."""
        for reader in readers:
            for _, fields in reader.read_on():
                place = reader.place
                if fields["phase"] == "intent" and fields.get("kind") != VACANCY:  # a purge has no envelope
                    self._open[reader.chain.log, fields["seq"]] = self._attempt(fields, place)
                elif fields["phase"] == "outcome":
                    self._conclude(fields, place, self._open.pop((reader.chain.log, fields.get("intent", 0)), None))

    def set_floors(self) -> None:
        """Notes what the store has to have by now."""
        for name in self._names.values():
            stored = [number for number, attempts in name.attempts.items() if any(a.stored for a in attempts)]
            checked = [number - 1 for number, attempts in name.attempts.items() if any(a.head for a in attempts)]
            name.floor = max(*stored, *checked, *name.purged, 0)

    def judge(self, met: _Sighting, report: StoreReport) -> str | None:
        """What is wrong with a record, None if nothing is."""
        name = self._names.get(name_value(self._key, met.tenant, met.key_id))
        if name is None:
            return "no log knows this name: it was planted, or is older than the logs"
        name.met = True
        if met.state is None:
            return "what is stored is no record: it was changed past the vault, or rotted"
        revision = met.state.revision
        if revision < name.floor:
            return f"revision {revision} is stored, the logs have {name.floor}: it was rolled back"
        if met.state.kind is None:
            if revision not in name.purged:
                report.vacancies.append(f"{met.tenant} {met.key_id} (revision {revision})")
            return None
        return self._why_not_possible(name, revision, met)

    def vanished(self) -> Iterator[Finding]:
        """Names that the store has to have and the walk did not meet."""
        for name in self._names.values():
            if name.floor and not name.met:
                yield Finding(name.shown, f"nothing is stored, the logs have revision {name.floor}: it was deleted")

    def contradictions(self, report: StoreReport) -> Iterator[Finding]:
        """What the logs alone prove: that the vault met a record which it had not left there."""
        for name in self._names.values():
            for revision, attempts in name.attempts.items():
                if why := _written_twice(attempts):
                    yield Finding(name.shown, f"revision {revision} {why}")
                vacant = head_value(self._key, (revision - 1).to_bytes(VACANCY_SIZE, "big"))
                before = name.heads(revision - 1)
                for attempt in attempts:
                    if attempt.over == vacant and revision - 1 not in name.purged:
                        report.vacancies.append(f"{name.shown} (revision {revision - 1}), before {attempt.place}")
                    elif attempt.over not in (None, vacant, *before) and None not in before:
                        why = f"{attempt.place} was to be written over a revision {revision - 1} that no log has"
                        yield Finding(name.shown, f"{why}: it was replaced before, or a log is missing")

    def _attempt(self, fields: Fields, place: Place) -> _Attempt:
        attempt = _Attempt(fields["envelope"], place, head=fields["head"], over=fields.get("over"))
        self._name(fields).attempts.setdefault(fields["revision"], []).append(attempt)
        return attempt

    def _conclude(self, fields: Fields, place: Place, attempt: _Attempt | None) -> None:
        """Takes in an outcome; `attempt` is that of its intent."""
        if fields["status"] != "OK":
            if attempt is not None and fields["status"] not in _UNKNOWN:
                attempt.outcome = _Outcome.REFUSED
            return
        if fields.get("kind") == VACANCY:
            self._name(fields).purged.add(fields["revision"])
            return
        if attempt is None and "envelope" in fields:
            attempts = self._name(fields).attempts.setdefault(fields["revision"], [])
            attempt = next((same for same in attempts if same.envelope == fields["envelope"]), None)
            if attempt is None:
                attempt = _Attempt(fields["envelope"], place)
                attempts.append(attempt)
        if attempt is not None and attempt.outcome is not _Outcome.WRITTEN:
            attempt.outcome = _Outcome.REPLAYED if fields.get("replayed") else _Outcome.WRITTEN

    def _name(self, fields: Fields) -> _Name:
        shown = f"{fields.get('tenant', '')} {fields.get('key_id') or fields['name']}"
        return self._names.setdefault(fields["name"], _Name(shown))

    def _why_not_possible(self, name: _Name, revision: int, met: _Sighting) -> str | None:
        if not met.fits:
            return f"its bytes are not those of its digest: revision {revision} was changed in place"
        if revision <= max(name.purged, default=0):
            return f"revision {revision} is stored, the logs have its purge: it was put back"
        for age, mark in enumerate(_marks(met.ring)):
            possible = name.possible(revision - age)
            if not possible and age == 0:
                return f"revision {revision} is in no log: it was written past the vault, or a log is missing"
            if possible and envelope_value(self._key, mark) not in {attempt.envelope for attempt in possible}:
                what = "another envelope is stored" if age == 0 else "its ring names another envelope"
                return f"{what} for revision {revision - age} than {possible[-1].place} has: it was replaced"
        return None


def _sighted(walked: Walked) -> _Sighting:
    tenant, key_id, record = walked
    state = None if record is None else _state(record)
    if record is None or state is None:
        return _Sighting(tenant, key_id, None, b"", fits=False)
    fits = state.kind is None or digest(record.envelope) == record.ring[:DIGEST_SIZE]
    return _Sighting(tenant, key_id, state, record.ring, fits)


def _state(record: Record) -> State | None:
    try:
        return state_of(record)
    except RecordCorrupt:
        return None


def _marks(ring: bytes) -> Iterator[bytes]:
    """The digests of a ring, newest first."""
    for at in range(0, len(ring), DIGEST_SIZE):
        yield ring[at : at + DIGEST_SIZE]


def _written_twice(attempts: Sequence[_Attempt]) -> str:
    written = [attempt for attempt in attempts if attempt.outcome is _Outcome.WRITTEN]
    stored = [attempt for attempt in attempts if attempt.stored]
    others = [attempt for attempt in stored if attempt.envelope != stored[0].envelope]
    if len(written) < 2 and not others:
        return ""
    first, second = written[:2] if len(written) > 1 else (stored[0], others[0])
    return f"was written twice, {first.place} and {second.place}: the record was rolled back in between"
