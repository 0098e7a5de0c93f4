"""Who comes in: the identity of each call's author, what the policy lets them do, what they have left of their quotas
and of the calls at work, and what the audit log is told.

The rule of this file: all is decided in memory, before anything is looked up and without waiting, so that no answer
tells whether a record exists. Only the audit log is waited for: before a conditional write, and before the reply. What
strangers are told is the exception: beyond a rate it is counted, or whoever can connect could fill the log's disk.
"""

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import Protocol

from keyvault_server.access.identity import AuthContext, Identifier, Metadata
from keyvault_server.access.policy import CallerEntry, Policy
from keyvault_server.access.quotas import READ_BYTES, AtWork, Quotas, Rate
from keyvault_server.audit.trail import Audit, Call, Change
from keyvault_server.core.caller import DEFAULT_TENANT, Caller
from keyvault_server.core.errors import AuditUnavailable, PolicyDenied, RateLimited
from keyvault_server.core.records import StoredHead
from keyvault_server.disk.watched import Watched

STRANGERS = Rate(per_second=0.1, burst=100)
"""How many calls without an identity have a line of their own in the audit log: at most some 5 MB of them a day."""


class Peer(Protocol):
    """The other end of a call, as grpc.aio.ServicerContext shows it."""

    def auth_context(self) -> AuthContext:
        """What TLS proved."""

    def invocation_metadata(self) -> Metadata | None:
        """What the caller sent along."""


@dataclass(frozen=True, slots=True)
class Gatekeeper:
    """What one server asks of its callers; each part may be absent, and then asks nothing."""

    identifier: Identifier | None = None
    policy: Watched[Policy] | None = None
    audit: Audit | None = None
    spares_reads: bool = False
    """Whether Reads are answered while the audit log takes nothing."""
    quotas: Quotas = field(default_factory=Quotas)
    """For those whom a policy gives limits."""
    at_work: AtWork = field(default_factory=AtWork)
    """Of the same."""
    calls_at_work: int = 256
    """Of each of them, where the policy gives no number."""
    vanished: set["asyncio.Task[None]"] = field(default_factory=set)
    """Outcomes that nobody waits for."""

    def lists_a_stranger(self) -> bool:
        """True if the next call without an identity gets a line of its own."""
        try:
            self.quotas.spend("", "strangers", STRANGERS)
        except RateLimited:
            return False
        return True


class Visitor(Caller):
    """The author of one call; see Caller."""

    __slots__ = (
        "_change",
        "_entry",
        "_gate",
        "_intent",
        "_method",
        "_name",
        "_replayed",
        "_request_id",
        "identity",
        "inside",
    )

    def __init__(self, gate: Gatekeeper, method: str, request_id: str) -> None:
        super().__init__(DEFAULT_TENANT if gate.policy is None else "")
        self.identity = ""
        """Empty where nobody is asked, and until it is known."""
        self.inside = False
        """Whether the call has been let in."""
        self._gate = gate
        self._method = method
        self._request_id = request_id
        self._name = ""
        self._entry: CallerEntry | None = None
        self._change: Change | None = None
        self._intent: int | None = None
        self._replayed = False

    def enter(self, peer: Peer) -> None:
        """Says who calls, and as whom, and lets the call in until `give_back`.

        Raises Unauthenticated; PolicyDenied for one whom the policy does not know; RateLimited.
        """
        gate = self._gate
        if gate.identifier is not None:
            proved = peer.auth_context() if gate.identifier.certificates else {}
            self.identity = gate.identifier.identify(proved, peer.invocation_metadata())
        if gate.policy is not None:
            self._entry = gate.policy.last.caller(self.identity)
            if self._entry is None:
                raise PolicyDenied
            self.tenant = self._entry.tenant
            gate.at_work.enter(self.identity, self._entry.limits.calls_at_work or gate.calls_at_work)
        self.inside = True

    def give_back(self) -> None:
        """The call, if it was let in, is not at work any more."""
        if self.inside and self._entry is not None:
            self._gate.at_work.leave(self.identity)

    def permit(self, name: str) -> None:
        """See Caller."""
        self._name = name
        if self._entry is not None and not self._entry.allows(self._method, name):
            raise PolicyDenied

    def spend(self) -> None:
        """See Caller. A Read also needs the bytes of the ones before it to be paid."""
        if self._entry is None:
            return
        limits = self._entry.limits
        self._gate.quotas.spend(self.identity, self._method, limits[self._method])
        if self._method == "Read":
            self._gate.quotas.spend(self.identity, READ_BYTES, limits[READ_BYTES])

    def charge(self, size: int) -> None:
        """See Caller."""
        if self._entry is not None:
            self._gate.quotas.charge(self.identity, READ_BYTES, self._entry.limits[READ_BYTES], size)

    async def intend(self, record: StoredHead, over: bytes | None) -> None:
        """See Caller."""
        self._change = Change.of(record)
        if self._gate.audit is not None:
            self._intent = await self._gate.audit.intent(self._call(), self._change, over=over)

    def replays(self, envelope: bytes) -> None:
        """See Caller."""
        self._change = Change.of_envelope(envelope)
        self._replayed = True

    async def leave(self, status: str, reason: str) -> None:
        """Tells the audit log what the caller is about to be told. Raises AuditUnavailable: then nothing may be."""
        if self._gate.audit is None:
            return
        try:
            await self._outcome(self._gate.audit, status, reason)
        except AuditUnavailable:
            if self._method != "Read" or not self._gate.spares_reads:
                raise

    def vanish(self) -> None:
        """Tells the audit log that the caller has hung up and is told nothing."""
        if self._gate.audit is not None:
            task = asyncio.create_task(self._vanished(self._gate.audit))
            self._gate.vanished.add(task)
            task.add_done_callback(self._gate.vanished.discard)

    async def _vanished(self, audit: Audit) -> None:
        with contextlib.suppress(AuditUnavailable):
            await self._outcome(audit, "CANCELLED", "")

    async def _outcome(self, audit: Audit, status: str, reason: str) -> None:
        if self._is_stranger() and not self._gate.lists_a_stranger():
            audit.count_refused(status, reason)
            return
        await audit.outcome(
            self._call(), status, reason, change=self._change, intent=self._intent, replayed=self._replayed
        )

    def _is_stranger(self) -> bool:
        """Has no identity where callers have one: then the call was refused before anything was done."""
        return self._gate.identifier is not None and not self.identity

    def _call(self) -> Call:
        return Call(self._request_id, self.identity, self._method, self.tenant, self._name)
