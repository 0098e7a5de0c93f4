"""Comparison of a record store with the audit logs: an operator's walk over every record.

The rules of this file:

- What the vault answered with OK is stored, and what it rejected is not. An intent without an outcome, or with one that
  means "unknown", may be stored.
- The order of several logs does not matter: everything is merged by name and revision, since no (tenant, key_id,
  revision) is used twice.
- Every intent has the head that it expects to replace. So a record that somebody replaced is found even after the vault
  wrote the next revision.
- Replicas may be running, and a record may be newer than a log was when it was read. So every doubt is judged again
  with what the logs have at the end of the walk.
- Memory grows with the mutations and the names in the logs, by about 0.6 kB for each of both.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from keyvault_server.audit.kept import find_wrong_copy
from keyvault_server.audit.key import AuditKey
from keyvault_server.audit.line import VACANCY, Fields, envelope_value, head_value, name_value
from keyvault_server.audit.reading import PATIENCE, LogReader, Place, open_logs
from keyvault_server.core.errors import RecordCorrupt
from keyvault_server.core.ports import RecordStore, Walked
from keyvault_server.core.records import DIGEST_SIZE, VACANCY_SIZE, Record, State, digest, digests, state_of

_UNKNOWN = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED", "INTERNAL", "UNKNOWN"})
"""Statuses after which a write may be stored; after any other, except OK, it is not."""


class Finding(NamedTuple):
    """One record that differs from the logs; str() is one line."""

    name: str
    """Tenant and key_id; if the store does not have the record, the HMAC of both, as in the logs."""
    why: str

    def __str__(self) -> str:
        return f"{self.name}: {self.why}"


@dataclass(slots=True)
class StoreReport:
    """Result of `against_store`."""

    records: int = 0
    findings: list[Finding] = field(default_factory=list)
    vacancies: list[str] = field(default_factory=list)
    """Vacancies of which no log has the purge: compare with the purges that were ordered."""


class _Outcome(Enum):
    UNKNOWN = 0
    NOT_WRITTEN = 1
    REPLAYED = 2
    """Stored by an attempt whose own outcome is unknown: a later call with the same bytes found them stored."""
    WRITTEN = 3


@dataclass(slots=True)
class _Attempt:
    """An envelope that the vault accepted for one name and revision, and may have stored."""

    envelope: str
    """HMAC of its digest."""
    place: Place
    """The line that has it first."""
    outcome: _Outcome = _Outcome.UNKNOWN
    head: str | None = None
    """HMAC of its head; None if only a replay is in the logs."""
    expected: str | None = None
    """HMAC of the head that it replaces; None also if nothing may be stored."""

    @property
    def stored(self) -> bool:
        return self.outcome in (_Outcome.REPLAYED, _Outcome.WRITTEN)


@dataclass(slots=True)
class _Name:
    """What the logs have about one name."""

    shown: str
    attempts: dict[int, list[_Attempt]] = field(default_factory=dict)
    """By revision."""
    purged: set[int] = field(default_factory=set)
    """Revisions that audited purges left."""
    floor: int = 0
    """Revision that the store had when the walk began, or an older one."""
    met: bool = False
    """Whether the walk met the record."""

    def possible(self, revision: int) -> list[_Attempt]:
        """Return the attempts that may be stored at a revision: those that are; if none is, those that may be."""
        attempts = self.attempts.get(revision, [])
        stored = [attempt for attempt in attempts if attempt.stored]
        return stored or [attempt for attempt in attempts if attempt.outcome is _Outcome.UNKNOWN]

    def heads(self, revision: int) -> set[str | None]:
        """Return the heads that may be stored at a revision, with None if one of them is not known."""
        possible = {attempt.envelope for attempt in self.possible(revision)}
        known = {a.envelope: a.head for a in self.attempts.get(revision, []) if a.head}
        return {known.get(envelope) for envelope in possible}


class _Sighting(NamedTuple):
    """A record that the walk met, without its body."""

    tenant: str
    key_id: str
    state: State | None
    """None: the stored bytes do not form a record."""
    ring: bytes
    fits: bool
    """Whether the ring begins with the digest of the envelope."""


async def against_store(
    paths: Sequence[Path], key: AuditKey, records: RecordStore, *, patience: float = PATIENCE
) -> StoreReport:
    """Compare the store with these logs, which must be all that were ever written about it.

    1. Read the logs. What they have now, the store must have during the walk.
    2. Walk over the records, and keep those that differ from the logs; look at the copies of the others.
    3. Read what was added to the logs, and judge the kept ones again.
    4. Find records that the walk did not meet, and lines that contradict each other.

    Raises BadPlace for a log that is not whole (`verify` also compares logs with checkpoints: call it first), and what
    the store's walk raises.
    """
    report, doubts, history = StoreReport(), [], _History(key)
    with open_logs(paths, key, patience=patience) as readers:
        # 1.
        history.read(readers)
        history.set_floors()
        # 2. A difference is only a doubt: a replica may have written since.
        async for walked in records.walk():
            report.records += 1
            sighting = _sight(walked)
            if history.judge(sighting, report) is not None:
                doubts.append(sighting)
            elif wrong := await find_wrong_copy(records, walked):
                report.findings.append(Finding(f"{walked.tenant} {walked.key_id}", wrong))
        # 3.
        history.read(readers)
    for sighting in doubts:
        if why := history.judge(sighting, report):
            report.findings.append(Finding(f"{sighting.tenant} {sighting.key_id}", why))
    # 4.
    report.findings += [*history.vanished(), *history.contradictions(report)]
    return report


class _History:
    """All mutations in the logs, by name and revision."""

    def __init__(self, key: AuditKey) -> None:
        self._key = key
        self._names: dict[str, _Name] = {}
        self._open: dict[tuple[str, int], _Attempt] = {}
        """Intents without an outcome, by log and seq."""

    def read(self, readers: Sequence[LogReader]) -> None:
        """Take in what the logs have by now. Raises BadPlace."""
        for reader in readers:
            for _, fields in reader.read_on():
                place = reader.place
                if fields["phase"] == "intent" and fields.get("kind") != VACANCY:  # a purge has no envelope
                    self._open[reader.chain.log, fields["seq"]] = self._add_attempt(fields, place)
                elif fields["phase"] == "outcome":
                    self._conclude(fields, place, self._open.pop((reader.chain.log, fields.get("intent", 0)), None))

    def set_floors(self) -> None:
        """Set the revisions that the store must have by now."""
        for name in self._names.values():
            stored = [number for number, attempts in name.attempts.items() if any(a.stored for a in attempts)]
            checked = [number - 1 for number, attempts in name.attempts.items() if any(a.head for a in attempts)]
            name.floor = max(*stored, *checked, *name.purged, 0)

    def judge(self, met: _Sighting, report: StoreReport) -> str | None:
        """Return what is wrong with a record, or None."""
        name = self._names.get(name_value(self._key, met.tenant, met.key_id))
        if name is None:
            return "no log has this name: it was planted, or is older than the logs"
        name.met = True
        if met.state is None:
            return "its bytes do not form a record: it was changed, and not by the vault, or is damaged"
        revision = met.state.revision
        if revision < name.floor:
            return f"revision {revision} is stored, the logs have {name.floor}: it was rolled back"
        if met.state.kind is None:
            if revision not in name.purged:
                report.vacancies.append(f"{met.tenant} {met.key_id} (revision {revision})")
            return None
        return self._why_not_possible(name, revision, met)

    def vanished(self) -> Iterator[Finding]:
        """Return the names that the store must have and the walk did not meet."""
        for name in self._names.values():
            if name.floor and not name.met:
                yield Finding(name.shown, f"nothing is stored, the logs have revision {name.floor}: it was deleted")

    def contradictions(self, report: StoreReport) -> Iterator[Finding]:
        """Return what the logs alone prove: the vault met a record that it had not stored."""
        for name in self._names.values():
            for revision, attempts in name.attempts.items():
                if why := _written_twice(attempts):
                    yield Finding(name.shown, f"revision {revision} {why}")
                vacant = head_value(self._key, (revision - 1).to_bytes(VACANCY_SIZE, "big"))
                before = name.heads(revision - 1)
                for attempt in attempts:
                    if attempt.expected == vacant and revision - 1 not in name.purged:
                        report.vacancies.append(f"{name.shown} (revision {revision - 1}), before {attempt.place}")
                    elif attempt.expected not in (None, vacant, *before) and None not in before:
                        why = f"{attempt.place} was to replace a revision {revision - 1} that no log has"
                        yield Finding(name.shown, f"{why}: somebody had replaced the record, or a log is missing")

    def _add_attempt(self, fields: Fields, place: Place) -> _Attempt:
        attempt = _Attempt(fields["envelope"], place, head=fields["head"], expected=fields.get("over"))
        self._name(fields).attempts.setdefault(fields["revision"], []).append(attempt)
        return attempt

    def _conclude(self, fields: Fields, place: Place, attempt: _Attempt | None) -> None:
        """Take in an outcome; `attempt` is the one of its intent, if it had one.

        1. Any status but OK means that nothing was written, or that this is unknown.
        2. OK for a purge means that a vacancy of this revision is stored.
        3. OK without an intent is a replay: find the attempt by its envelope. If no line so far has it, note the
           envelope without its head.
        4. OK means that the envelope is stored: written by this attempt, unless the outcome is a replay's.
        """
        # 1.
        if fields["status"] != "OK":
            if attempt is not None and fields["status"] not in _UNKNOWN:
                attempt.outcome = _Outcome.NOT_WRITTEN
            return
        # 2.
        if fields.get("kind") == VACANCY:
            self._name(fields).purged.add(fields["revision"])
            return
        # 3. Calls that change nothing, such as Read, have no envelope.
        if attempt is None and "envelope" in fields:
            attempts = self._name(fields).attempts.setdefault(fields["revision"], [])
            attempt = next((same for same in attempts if same.envelope == fields["envelope"]), None)
            if attempt is None:
                attempt = _Attempt(fields["envelope"], place)
                attempts.append(attempt)
        # 4. A replay does not undo WRITTEN: two WRITTEN attempts at one revision prove a rollback.
        if attempt is not None and attempt.outcome is not _Outcome.WRITTEN:
            attempt.outcome = _Outcome.REPLAYED if fields.get("replayed") else _Outcome.WRITTEN

    def _name(self, fields: Fields) -> _Name:
        shown = f"{fields.get('tenant', '')} {fields.get('key_id') or fields['name']}"
        return self._names.setdefault(fields["name"], _Name(shown))

    def _why_not_possible(self, name: _Name, revision: int, met: _Sighting) -> str | None:
        if not met.fits:
            return f"its bytes do not match its digest: revision {revision} was changed in place"
        if revision <= max(name.purged, default=0):
            return f"revision {revision} is stored, the logs have its purge: it was put back"
        for age, digest_of_ring in enumerate(digests(met.ring)):
            possible = name.possible(revision - age)
            if not possible and age == 0:
                return f"revision {revision} is in no log: it was not written by the vault, or a log is missing"
            if possible and envelope_value(self._key, digest_of_ring) not in {attempt.envelope for attempt in possible}:
                what = "another envelope is stored" if age == 0 else "its ring names another envelope"
                return f"{what} for revision {revision - age} than {possible[-1].place} has: it was replaced"
        return None


def _sight(walked: Walked) -> _Sighting:
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


def _written_twice(attempts: Sequence[_Attempt]) -> str:
    written = [attempt for attempt in attempts if attempt.outcome is _Outcome.WRITTEN]
    stored = [attempt for attempt in attempts if attempt.stored]
    others = [attempt for attempt in stored if attempt.envelope != stored[0].envelope]
    if len(written) < 2 and not others:
        return ""
    first, second = written[:2] if len(written) > 1 else (stored[0], others[0])
    return f"was written twice, {first.place} and {second.place}: the record was rolled back in between"
