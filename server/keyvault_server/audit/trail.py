"""The audit trail: a line before each conditional write, a line before each reply, or neither is made.

    async with open_audit(path, key_path) as audit:
        intent = await audit.intent(call, Change.of(record), expected=stored.head)    # then the conditional write
        await audit.outcome(call, "OK", change=Change.of(record), intent=intent)      # then the reply

The rules of this file. Both calls return when their line is durable and raise AuditUnavailable if it cannot be, or is
not in time: a disk that hangs tells no error. A line that was late is still written when the disk goes on, as is one
whose caller was cancelled. Refusals that are only counted are told with the next checkpoint, by one line for each kind
of them. Waiting lines are gathered and share one fsync (group commit), on a thread. No value that a
line names is in it but as an HMAC, the name in clear only if the operator wants that.
"""

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from keyvault_api import envelope as kve1
from keyvault_api.envelope import HEAD_SIZE, Kind
from keyvault_api.names import is_scope
from keyvault_server.audit.file import Sync
from keyvault_server.audit.key import AuditKey
from keyvault_server.audit.line import (
    CHECKPOINT_LINES,
    MAX_CALLER,
    REFUSED,
    VACANCY,
    cut,
    envelope_value,
    head_value,
    name_value,
)
from keyvault_server.audit.log import FILE_BYTES, AuditLog, Clock, fdatasync, open_log
from keyvault_server.core.background import in_background
from keyvault_server.core.errors import AuditUnavailable
from keyvault_server.core.records import DIGEST_SIZE, StoredHead, digest, state_of
from keyvault_server.disk.disk_thread import DiskThread
from keyvault_server.disk.group_commit import GroupCommit

CHECKPOINT_SECONDS = 60.0
"""How long lines wait at most for a checkpoint."""
MAX_BATCH = 1_000
"""Lines that share an fsync at most."""
PATIENCE_SECONDS = 5.0
"""How long a call waits for its line at most."""
MAX_WAITING = 4 * MAX_BATCH
"""Lines that wait at most; the next is refused."""

_log = logging.getLogger(__name__)


class Call(NamedTuple):
    """Who asks for what: the same in every line of a call."""

    request: str
    """The request id."""
    caller: str
    """The identity; "" if there is none."""
    method: str
    tenant: str
    """"" if none was found for the caller."""
    key_id: str = ""
    """The key_id or scope, as it was sent; "" if the method has none."""


class Change(NamedTuple):
    """What a mutation makes of a record."""

    revision: int
    kind: Kind | None
    """None for a vacancy."""
    digest: bytes
    """SHA-256(envelope)[0:16], as in the ring; b"" for a vacancy."""
    head: bytes

    @classmethod
    def of(cls, record: StoredHead) -> "Change":
        """A record that is about to be stored, or is."""
        state = state_of(record)
        return cls(state.revision, state.kind, record.ring[:DIGEST_SIZE], record.head)

    @classmethod
    def of_envelope(cls, envelope: bytes) -> "Change":
        """A request's envelope. Raises MalformedEnvelope."""
        header = kve1.parse(envelope)
        return cls(header.revision, header.kind, digest(envelope), envelope[:HEAD_SIZE])


@dataclass(eq=False, slots=True)
class _Waiting:
    text: str
    seq: "asyncio.Future[int]"


class Audit:
    """An open trail. Made by `open_audit`; belongs to one event loop."""

    def __init__(self, log: AuditLog, *, clear_names: bool, patience: float) -> None:
        self._log = log
        self._clear_names = clear_names
        self._patience = patience
        self._disk = DiskThread("keyvault-audit")
        self._lines = GroupCommit[_Waiting](lambda waiting: min(len(waiting), MAX_BATCH), self._write)
        self._unwritten = 0
        """Lines that wait, or are on their way to the disk."""
        self._refused: Counter[tuple[str, str]] = Counter()
        self._told: Counter[tuple[str, str]] = Counter()
        """Of those, what lines tell of. Belongs to the disk's thread: nothing that ends a wait for it is in the way."""

    async def intent(self, call: Call, change: Change, *, expected: bytes | None) -> int:
        """A mutation that was proved and is about to be written on condition that the stored head is `expected`.

        `expected` is None if nothing may be stored. Returns the line's seq, which the outcome refers to.
        """
        key = self._log.key
        return await self._add(
            call,
            phase="intent",
            **_change_fields(key, change),
            head=head_value(key, change.head),
            over=None if expected is None else head_value(key, expected),
        )

    async def outcome(
        self,
        call: Call,
        status: str,
        reason: str = "",
        *,
        change: Change | None = None,
        intent: int | None = None,
        replayed: bool = False,
    ) -> None:
        """What the caller is about to be told: a gRPC status' name, and ErrorInfo's reason unless it is OK.

        `change` is what a mutation asked for, as far as that is known; of one that is answered OK it has to be there.
        `intent` is the seq of its intent, if it got that far.
        """
        fields = {} if change is None else _change_fields(self._log.key, change)
        await self._add(
            call,
            phase="outcome",
            **fields,
            intent=intent,
            status=cut(status),
            reason=cut(reason),
            replayed=replayed or None,
        )

    def count_refused(self, status: str, reason: str) -> None:
        """A refusal that gets no line: it is told with others like it, at the next checkpoint, by their number."""
        self._refused[status, reason] += 1

    async def check(self) -> None:
        """Returns if the next line will be taken, as far as one can tell. Raises AuditUnavailable."""
        await self._disk.run(self._log.check)

    async def close(self) -> None:
        """Writes what waits, what was counted, and the last checkpoint; gives up if the disk hangs."""
        try:
            async with asyncio.timeout(self._patience):
                await self._lines.finish()
                await self._disk.run(self._end)
        except TimeoutError:
            _log.critical("the audit log's disk hangs: what waits for it is given up", extra={"lines": self._unwritten})
            self._log.abandon()
        else:
            self._disk.end()

    async def keep_checkpoints(self, seconds: float) -> None:
        """A checkpoint whenever lines have waited so long for one, and refusals to be told. Until it is cancelled."""
        while True:
            await asyncio.sleep(seconds)
            with contextlib.suppress(AuditUnavailable):  # the next call is told
                await self._disk.run(self._tell_refused)
                await self._disk.run(self._log.add_checkpoint_if_due)

    def _end(self) -> None:
        with contextlib.suppress(AuditUnavailable):
            self._tell_refused()
        self._log.end()

    def _tell_refused(self) -> None:
        refused = self._refused.copy()
        fresh = refused - self._told
        if fresh:
            kinds = [(status, reason, count) for (status, reason), count in fresh.items()]
            self._log.append(
                [self._log.text(phase=REFUSED, status=cut(s), reason=cut(r), count=count) for s, r, count in kinds]
            )
            self._told = refused

    async def _add(self, call: Call, *, phase: str, **fields: str | int | bool | None) -> int:
        if len(self._lines) >= MAX_WAITING:
            raise AuditUnavailable
        text = self._log.text(
            request=cut(call.request),
            phase=phase,
            caller=cut(call.caller, MAX_CALLER),
            method=cut(call.method),
            tenant=cut(call.tenant),
            name=name_value(self._log.key, call.tenant, call.key_id) if call.key_id else None,
            key_id=call.key_id if self._clear_names and is_scope(call.key_id) else None,
            **fields,
        )
        waiting = _Waiting(text, asyncio.get_running_loop().create_future())
        self._lines.add(waiting)
        self._unwritten += 1
        try:
            async with asyncio.timeout(self._patience):
                return await waiting.seq
        except TimeoutError:
            raise AuditUnavailable from None

    async def _write(self, batch: list[_Waiting]) -> None:
        seqs = await self._seqs(batch)
        self._unwritten -= len(batch)
        for waiting, seq in zip(batch, seqs, strict=True):
            if waiting.seq.done():  # its caller was cancelled; the line is there all the same
                continue
            if seq is None:
                waiting.seq.set_exception(AuditUnavailable())
            else:
                waiting.seq.set_result(seq)

    async def _seqs(self, batch: list[_Waiting]) -> Sequence[int | None]:
        """What the lines are numbered, once they are durable; None for each if they are not taken."""
        try:
            return await self._disk.run(lambda: self._log.append([waiting.text for waiting in batch]))
        except AuditUnavailable:
            pass
        except Exception as error:  # our own bug: nobody may wait for ever for it
            _log.critical("no audit line can be written", exc_info=error)
        return [None] * len(batch)


@asynccontextmanager
async def open_audit(
    path: Path,
    key_path: Path,
    *,
    clear_names: bool = False,
    file_bytes: int = FILE_BYTES,
    checkpoint_lines: int = CHECKPOINT_LINES,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    patience: float = PATIENCE_SECONDS,
    sync: Sync = fdatasync,
    clock: Clock = time.time,
) -> AsyncIterator[Audit]:
    """Open the log in this file; file and key are created if they do not exist. Raises OperatorError.

    `clear_names` writes key_ids and scopes in clear, beside their HMACs. A file of `file_bytes` is kept as FILE.<seq>,
    and a new one begun. At most `checkpoint_lines` (1,000 at most) and `checkpoint_seconds` pass between two
    checkpoints; no call waits longer than `patience` seconds for its line.
    """
    with open_log(path, key_path, sync=sync, clock=clock, every=checkpoint_lines, file_bytes=file_bytes) as log:
        audit = Audit(log, clear_names=clear_names, patience=patience)
        try:
            async with in_background(audit.keep_checkpoints(checkpoint_seconds)):
                yield audit
        finally:
            await audit.close()


def _change_fields(key: AuditKey, change: Change) -> dict[str, str | int | bool | None]:
    return {
        "revision": change.revision,
        "kind": change.kind.name if change.kind else VACANCY,
        "envelope": envelope_value(key, change.digest) if change.digest else None,
    }
