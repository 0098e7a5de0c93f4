"""The audit log of a running server: a line before each conditional write, and a line before each reply.

    async with open_audit(AuditOptions(file, key)) as audit:
        intent = await audit.intent(call, Change.of(record), expected=stored.head)    # then the conditional write
        await audit.outcome(call, "OK", change=Change.of(record), intent=intent)      # then the reply

The rules of this file:

- Audit first: if a line cannot be written, the call fails. `intent` and `outcome` return when their line is durable,
  and raise AuditUnavailable if it cannot be, or is not in time: a disk that hangs reports no error.
- A late line is still written when the disk goes on, as is one whose caller was cancelled.
- Waiting lines share one fsync (group commit), on a thread.
- Rejected calls that are only counted get one line for each kind, with the next checkpoint.
- A line has an HMAC in place of each name and envelope; names in plaintext only if the operator asks for them.
"""

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

from keyvault_api.names import is_scope
from keyvault_server.audit.entry import Call, Change
from keyvault_server.audit.file import Sync
from keyvault_server.audit.key import AuditKey
from keyvault_server.audit.line import (
    CHECKPOINT_LINES,
    COUNTED_REFUSALS,
    MAX_CALLER,
    VACANCY,
    envelope_value,
    head_value,
    name_value,
    shorten,
)
from keyvault_server.audit.log import FILE_BYTES, AuditLog, Clock, fdatasync, open_log
from keyvault_server.audit.patience import Patience
from keyvault_server.core.background import in_background
from keyvault_server.core.errors import AuditUnavailable
from keyvault_server.disk.disk_thread import DiskThread
from keyvault_server.disk.group_commit import GroupCommit

CHECKPOINT_SECONDS = 60.0
"""Longest time from a line to the next checkpoint."""
MAX_BATCH = 1_000
"""Maximum number of lines that share an fsync."""
PATIENCE_SECONDS = 5.0
"""Longest time that a call waits for its line."""
MAX_NAMES = 4_096
"""Names whose HMACs are kept, at most 2 MB: to make one takes a fortieth of an audited Read."""
MAX_WAITING = 4 * MAX_BATCH
"""Maximum number of waiting lines; the next line is refused."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AuditOptions:
    """Where an audit log is, and what the operator decides about it."""

    file: Path
    """FILE; created if it does not exist."""
    key: Path
    """Key file; created with a new log."""
    clear_names: bool = False
    """Write key_ids and scopes in plaintext, in addition to their HMACs."""
    file_bytes: int = FILE_BYTES
    """Size at which FILE is kept as FILE.<seq>, and a new one begun."""


@dataclass(eq=False, slots=True)
class _Waiting:
    text: str
    seq: "asyncio.Future[int]"


class Audit:
    """An open log. `open_audit` makes it; it belongs to one event loop."""

    def __init__(self, log: AuditLog, *, clear_names: bool, patience: float) -> None:
        self._log = log
        self._clear_names = clear_names
        self._patience = patience
        self._waits = Patience(patience)
        self._name_value = lru_cache(MAX_NAMES)(partial(name_value, log.key))
        self._disk = DiskThread("keyvault-audit")
        self._lines = GroupCommit[_Waiting](lambda waiting: min(len(waiting), MAX_BATCH), self._write)
        self._unwritten = 0
        """Lines that wait, or are on their way to the disk."""
        self._refusals: Counter[tuple[str, str]] = Counter()
        """Rejected calls without a line of their own, by status and reason."""
        self._written_refusals: Counter[tuple[str, str]] = Counter()
        """Those that lines have counted. The disk's thread sets it, even if the wait for a line was cancelled."""

    async def intent(self, call: Call, change: Change, *, expected: bytes | None) -> int:
        """Write that an accepted mutation is about to be stored, if the stored head still is `expected`.

        `expected` is None if nothing may be stored. Returns the line's seq, which the outcome refers to. Raises
        AuditUnavailable: then the mutation must not be stored.
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
        """Write what the caller is about to be answered: a gRPC status, and ErrorInfo's reason unless it is OK.

        `change` is what a mutation asked for, if that is known; with OK it must be given. `intent` is the seq of its
        intent, if it has one. Raises AuditUnavailable: then the caller must not be answered that.
        """
        fields = {} if change is None else _change_fields(self._log.key, change)
        await self._add(
            call,
            phase="outcome",
            **fields,
            intent=intent,
            status=shorten(status),
            reason=shorten(reason),
            replayed=replayed or None,
        )

    def count_refused(self, status: str, reason: str) -> None:
        """Count a rejected call that gets no line; the next checkpoint comes with a line of their number."""
        self._refusals[status, reason] += 1

    async def check(self) -> None:
        """Raise AuditUnavailable if the log is known not to take the next line."""
        await self._disk.run(self._log.check)

    async def close(self) -> None:
        """Write the waiting lines, the counted refusals and the last checkpoint; give up if the disk hangs."""
        try:
            async with asyncio.timeout(self._patience):
                await self._lines.finish()
                await self._disk.run(self._end)
        except TimeoutError:
            _log.critical("the audit log's disk hangs: giving up waiting lines", extra={"lines": self._unwritten})
            self._log.abandon()
        else:
            self._disk.end()
        self._waits.close()

    async def keep_checkpoints(self, seconds: float) -> None:
        """Write counted refusals, and a checkpoint if lines came, every so many seconds, until cancelled."""
        while True:
            await asyncio.sleep(seconds)
            with contextlib.suppress(AuditUnavailable):  # the next call gets the error
                await self._disk.run(self._write_refusals)
                await self._disk.run(self._log.add_checkpoint_if_due)

    def _end(self) -> None:
        with contextlib.suppress(AuditUnavailable):
            self._write_refusals()
        self._log.end()

    def _write_refusals(self) -> None:
        """Write one line for each kind of refusal that was counted since the last such line."""
        refusals = self._refusals.copy()
        new = refusals - self._written_refusals
        if new:
            self._log.append(
                [
                    self._log.text(phase=COUNTED_REFUSALS, status=shorten(status), reason=shorten(reason), count=count)
                    for (status, reason), count in new.items()
                ]
            )
            self._written_refusals = refusals

    async def _add(self, call: Call, *, phase: str, **fields: str | int | bool | None) -> int:
        if len(self._lines) >= MAX_WAITING:
            raise AuditUnavailable
        text = self._log.text(
            request=shorten(call.request),
            phase=phase,
            caller=shorten(call.caller, MAX_CALLER),
            peer=shorten(call.origin.peer),
            uid=call.origin.uid,
            sudo_uid=call.origin.sudo_uid,
            method=shorten(call.method),
            tenant=shorten(call.tenant),
            name=self._name_value(call.tenant, call.key_id) if call.key_id else None,
            key_id=call.key_id if self._clear_names and is_scope(call.key_id) else None,
            **fields,
        )
        waiting = _Waiting(text, asyncio.get_running_loop().create_future())
        self._lines.add(waiting)
        self._unwritten += 1
        return await self._waits.wait(waiting.seq)

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
        """Return the seqs of the lines once they are durable; None for each if they were not accepted."""
        try:
            return await self._disk.run(lambda: self._log.append([waiting.text for waiting in batch]))
        except AuditUnavailable:
            pass
        except Exception as error:  # a bug of ours, for which no call may wait for ever
            _log.critical("no audit line can be written", exc_info=error)
        return [None] * len(batch)


@asynccontextmanager
async def open_audit(
    options: AuditOptions,
    *,
    checkpoint_lines: int = CHECKPOINT_LINES,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    patience: float = PATIENCE_SECONDS,
    sync: Sync = fdatasync,
    clock: Clock = time.time,
) -> AsyncIterator[Audit]:
    """Open an audit log while the body runs. Raises OperatorError.

    The rest is for tests: at most `checkpoint_lines` (1,000 at most) and `checkpoint_seconds` pass between two
    checkpoints; no call waits longer than `patience` seconds for its line.
    """
    with open_log(
        options.file, options.key, sync=sync, clock=clock, every=checkpoint_lines, file_bytes=options.file_bytes
    ) as log:
        audit = Audit(log, clear_names=options.clear_names, patience=patience)
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
