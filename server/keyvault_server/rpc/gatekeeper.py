"""The caller of one call: its identity, what the policy allows it, its quotas, and its lines in the audit log.

The rule of this file: everything is decided in memory and without waiting before anything is looked up, so that no
answer shows whether a record exists. Only the audit log is waited for: before a conditional write, and before the
reply. Callers without an identity are the exception: beyond a rate they are counted instead, or anyone who can connect
could fill the log's disk.
"""

import asyncio
import contextlib
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Protocol

from keyvault_api.envelope import MalformedEnvelope
from keyvault_api.names import BATCH_READ, LIST, LIST_REVISIONS, POLICY_METHODS, WHO_AM_I
from keyvault_server.access.identity import AuthContext, Identifier, Metadata
from keyvault_server.access.patterns import Pattern
from keyvault_server.access.policy import CallerEntry, Policy, Rule
from keyvault_server.access.quotas import READ_BYTES, REFUSED, InFlight, Limits, Quotas, Rate
from keyvault_server.audit.entry import Call, Change, Origin
from keyvault_server.audit.trail import Audit
from keyvault_server.core.caller import DEFAULT_TENANT
from keyvault_server.core.errors import AuditUnavailable, PolicyDenied, RateLimited
from keyvault_server.core.records import StoredHead
from keyvault_server.disk.watched import Watched

UNIDENTIFIED = Rate(per_second=0.1, burst=100)
"""How many calls without an identity get lines of their own: at most some 5 MB a day in each log."""

DEFAULT_LIMITS = Limits()
"""Of a caller that the policy does not know, which may only ask who it is."""
EVERYTHING = Rule(0, frozenset(POLICY_METHODS), (Pattern("", is_prefix=True),))
"""What every caller may do where there is no policy."""


class Peer(Protocol):
    """The other end of a call, as grpc.aio.ServicerContext shows it."""

    def auth_context(self) -> AuthContext:
        """Return what TLS proved."""

    def peer(self) -> str:
        """Return the caller's address."""


@dataclass(frozen=True, slots=True)
class Gatekeeper:
    """What one server checks about its callers; each part may be absent, and then checks nothing."""

    identifier: Identifier | None = None
    policy: Watched[Policy] | None = None
    audit: Audit | None = None
    reads_without_audit: bool = False
    """Serve Reads while the audit log is unavailable (fail open)."""
    quotas: Quotas = field(default_factory=Quotas)
    """Of the callers that a policy gives limits."""
    in_flight: InFlight = field(default_factory=InFlight)
    """Of the same callers."""
    in_flight_per_caller: int = 256
    """Maximum in-flight calls of one caller, where the policy gives no number."""
    hung_up: set["asyncio.Task[None]"] = field(default_factory=set)
    """Audit lines of callers that left, being written."""

    def gives_line(self) -> bool:
        """Return whether the next call without an identity gets lines of its own."""
        try:
            self.quotas.spend("", "unidentified", UNIDENTIFIED)
        except RateLimited:
            return False
        return True


class Visitor:
    """The author of one call; see Caller."""

    __slots__ = (
        "_change",
        "_entry",
        "_envelope",
        "_gate",
        "_intent",
        "_listed",
        "_metadata",
        "_method",
        "_name",
        "_peer",
        "_replayed",
        "_request_id",
        "entered",
        "identity",
        "origin",
        "tenant",
    )

    def __init__(
        self, gate: Gatekeeper, method: str, request_id: str, peer: Peer | None = None, metadata: Metadata = ()
    ) -> None:
        """Begin a call; `peer` is its other end, None for an operator's command."""
        self.tenant = DEFAULT_TENANT if gate.policy is None else ""
        self.identity = ""
        """Empty until it is known, and where callers are not authenticated."""
        self.entered = False
        """Whether the call was let in."""
        self.origin: Origin | None = None
        """Set when the first audit line needs it: to ask gRPC for an address takes time."""
        self._gate = gate
        self._method = method
        self._request_id = request_id
        self._peer = peer
        self._metadata = metadata
        self._name = ""
        self._envelope = b""
        self._entry: CallerEntry | None = None
        self._change: Change | None = None
        self._intent: int | None = None
        self._listed: bool | None = None
        self._replayed = False

    def enter(self) -> None:
        """Identify the caller, find its tenant, and count the call as in-flight until `release`.

        Raises Unauthenticated; PolicyDenied for a caller that the policy does not know, unless it asks who it is;
        RateLimited.
        """
        gate, peer = self._gate, self._peer
        if gate.identifier is not None:
            assert peer is not None, "an operator's command does not enter"
            proved = peer.auth_context() if gate.identifier.certificates else {}
            self.identity = gate.identifier.identify(proved, self._metadata)
        if gate.policy is not None:
            self._entry = gate.policy.last.caller(self.identity)
            if self._entry is None and self._method != WHO_AM_I:
                raise PolicyDenied
            most = None
            if self._entry is not None:
                self.tenant, most = self._entry.tenant, self._entry.limits.calls_in_flight
            gate.in_flight.enter(self.identity, most or gate.in_flight_per_caller)
        self.entered = True

    def release(self) -> None:
        """Stop counting the call as in-flight, if it entered."""
        if self.entered and self._gate.policy is not None:
            self._gate.in_flight.leave(self.identity)

    def note(self, name: str, envelope: bytes = b"") -> None:
        """See Caller."""
        self._name = name
        if self._gate.audit is not None:
            self._envelope = envelope

    def permit(self, name: str) -> None:
        """See Caller."""
        self._name = name
        if self._entry is not None and not self._entry.allows(_granted_as(self._method), name):
            raise PolicyDenied

    def spend(self) -> None:
        """See Caller. A Read or List also needs the bytes of the earlier ones to be paid for."""
        if self._entry is None:
            return
        limits, bucket = self._entry.limits, _granted_as(self._method)
        self._gate.quotas.spend(self.identity, bucket, limits[bucket])
        if self._method in ("Read", LIST):
            self._gate.quotas.spend(self.identity, READ_BYTES, limits[READ_BYTES])

    def ask_for_rules(self) -> tuple[Rule, ...]:
        """Return what the policy allows the caller, for WhoAmI; where there is no policy, everything.

        Raises RateLimited.
        """
        if self._gate.policy is None:
            return (EVERYTHING,)
        limits = DEFAULT_LIMITS if self._entry is None else self._entry.limits
        self._gate.quotas.spend(self.identity, WHO_AM_I, limits[WHO_AM_I])
        return () if self._entry is None else self._entry.rules

    @property
    def refusals(self) -> Rate | None:
        """How many refusals the policy gives the caller; None for one that it does not know."""
        return None if self._entry is None else self._entry.limits[REFUSED]

    def charge(self, size: int) -> None:
        """See Caller."""
        if self._entry is not None:
            self._gate.quotas.charge(self.identity, READ_BYTES, self._entry.limits[READ_BYTES], size)

    def refund(self, size: int) -> None:
        """See Caller."""
        if self._entry is not None:
            limits, quotas = self._entry.limits, self._gate.quotas
            quotas.give_back(self.identity, self._method, limits[self._method], 1)
            quotas.give_back(self.identity, READ_BYTES, limits[READ_BYTES], size)

    def reading_item(self, number: int) -> "Visitor":
        """Return the same caller as the author of one Read of its batch, which has an audit line of its own."""
        item = Visitor(self._gate, "Read", f"{self._request_id}.{number}", self._peer)
        item.identity, item.tenant, item._entry, item._listed = self.identity, self.tenant, self._entry, True
        return item

    async def intend(self, record: StoredHead, expected: bytes | None) -> None:
        """See Caller."""
        self._change = Change.of(record)
        if self._gate.audit is not None:
            self._intent = await self._gate.audit.intent(self._call(), self._change, expected=expected)

    def replays(self) -> None:
        """See Caller."""
        self._replayed = True

    @property
    def is_audited(self) -> bool:
        """Whether an outcome is written to an audit log, which takes time."""
        return self._gate.audit is not None

    async def record_outcome(self, status: str, reason: str) -> None:
        """Record in the audit log what the caller is about to be answered.

        Raises AuditUnavailable: then the caller must not be answered that.
        """
        if self._gate.audit is None or (self._method == BATCH_READ and status == "OK"):  # its items have lines
            return
        try:
            await self._write_outcome(self._gate.audit, status, reason)
        except AuditUnavailable:
            if _granted_as(self._method) != "Read" or not self._gate.reads_without_audit:
                raise

    def hang_up(self) -> None:
        """Record in the audit log, without waiting, that the caller left and gets no answer."""
        if self._gate.audit is not None:
            task = asyncio.create_task(self._record_hang_up(self._gate.audit))
            self._gate.hung_up.add(task)
            task.add_done_callback(self._gate.hung_up.discard)

    async def _record_hang_up(self, audit: Audit) -> None:
        with contextlib.suppress(AuditUnavailable):
            await self._write_outcome(audit, "CANCELLED", "")

    async def _write_outcome(self, audit: Audit, status: str, reason: str) -> None:
        if not self.is_listed():
            audit.count_refused(status, reason)
            return
        self._note_change()
        await audit.outcome(
            self._call(), status, reason, change=self._change, intent=self._intent, replayed=self._replayed
        )

    def _note_change(self) -> None:
        """Note what the envelope that was sent asks for, if it is one and nothing was intended; then let go of it.

        gRPC's context keeps all that a call holds until a garbage collection.
        """
        if self._envelope and self._change is None:
            with contextlib.suppress(MalformedEnvelope):
                self._change = Change.of_envelope(self._envelope)
        self._envelope = b""

    def is_listed(self) -> bool:
        """Return whether the call gets lines of its own in both logs, or is only counted.

        Only the call of a caller that needs an identity and has none is counted: it was refused at once.
        """
        if self._listed is None:
            unidentified = self._gate.identifier is not None and not self.identity
            self._listed = not unidentified or self._gate.gives_line()
        return self._listed

    def _call(self) -> Call:
        if self.origin is None:
            self.origin = Origin(self._peer.peer() if self._peer else "")
        return Call(self._request_id, self.identity, self._method, self.tenant, self._name, self.origin)


def _granted_as(method: str) -> str:
    """Return the method whose grant and quota a call needs."""
    return "Read" if method == LIST_REVISIONS else method


current_caller: ContextVar[Visitor] = ContextVar("current_caller")
"""The author of the call that the running task serves."""
