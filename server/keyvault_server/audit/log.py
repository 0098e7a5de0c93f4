"""One audit log: the file of lines, and beside it FILE.checkpoints, which holds its checkpoint lines alone.

The rules of this file. FILE comes first, FILE.checkpoints after it, and no line is accepted while a checkpoint is
missing there. What cannot be written leaves the chain where it was. A FILE that is large enough is kept under another
name (rotation.py); FILE.checkpoints goes on. Blocks, so `trail.py` calls it on a thread.
"""

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from keyvault_server.audit.file import AppendFile, Sync, UnusableAuditFile
from keyvault_server.audit.key import AuditKey, UnusableAuditKey
from keyvault_server.audit.line import CHECKPOINT_LINES, ROTATE, VERSION, BadLine, Chain, encoded
from keyvault_server.audit.recovery import Resumed, resume
from keyvault_server.audit.rotation import rotate
from keyvault_server.core.errors import AuditUnavailable
from keyvault_server.disk.files import sync_directory

Clock = Callable[[], float]

FILE_BYTES = 1024 * 1024 * 1024
"""How large FILE becomes before it is kept under another name; at most one batch of lines larger."""

fdatasync: Sync = getattr(os, "fdatasync", os.fsync)

_log = logging.getLogger(__name__)


class AuditLog:
    """An open log. Made by `open_log`; belongs to one thread at a time."""

    def __init__(
        self,
        key: AuditKey,
        found: Resumed,
        lines: AppendFile,
        checkpoints: AppendFile,
        *,
        clock: Clock,
        every: int,
        file_bytes: int,
    ) -> None:
        self.key = key
        self._chain = found.chain
        self._unshipped = found.unshipped
        self._checkpoint = found.checkpoint
        self._lines = lines
        self._file_bytes = self._full_at = file_bytes
        self._checkpoints = checkpoints
        self._clock = clock
        self._every = min(every, CHECKPOINT_LINES)
        self._boot = os.urandom(8).hex()
        self.abandoned = False

    def text(self, **fields: str | int | bool | None) -> str:
        """A line's text for `append`: these fields, this moment and this process."""
        return encoded(ts=int(self._clock() * 1_000_000), boot=self._boot, **fields)

    def begin(self, found: Resumed) -> None:
        """The boot line and a checkpoint, behind a rotation that a crash left undone."""
        if found.rotating:
            self._ship()
            self._begin_file()
        boot = self.text(phase="boot", log=self._chain.log, version=VERSION, found=found.state, cut=found.torn or None)
        self.append([boot], checkpoint="start")

    def append(self, texts: Sequence[str], *, checkpoint: str = "") -> list[int]:
        """Writes lines, durably, and returns their seqs; `checkpoint` is why one is to follow them, if so.

        Raises AuditUnavailable: none of them is written; or that is unknown, and none will be until the next start.
        """
        self._checkpoints.look()
        self._ship()
        if self._lines.size >= self._full_at:
            self._append((), checkpoint=ROTATE)
            self._ship()
            self._begin_file()
        return self._append(texts, checkpoint=checkpoint)

    def _append(self, texts: Sequence[str], *, checkpoint: str) -> list[int]:
        chain, block, seqs, signed = self._chain.copy(), bytearray(), [], []
        for text in texts:
            block += chain.add(self.key, text)
            seqs.append(chain.seq)
            if chain.since == self._every:
                signed.append(self._add_checkpoint(chain, "lines"))
                block += signed[-1]
        if checkpoint:
            signed.append(self._add_checkpoint(chain, checkpoint))
            block += signed[-1]
        self._lines.append(block)
        self._chain = chain
        self._unshipped += signed
        self._checkpoint = signed[-1] if signed else self._checkpoint
        with contextlib.suppress(AuditUnavailable):  # these lines are written; the next ones are refused
            self._ship()
        return seqs

    def add_checkpoint_if_due(self) -> None:
        """A checkpoint, if any line came since the last one. Raises AuditUnavailable."""
        if self._chain.since:
            self.append((), checkpoint="time")

    def check(self) -> None:
        """Returns if the next line will be taken, as far as one can tell. Raises AuditUnavailable.

        A full disk is tried again, by a checkpoint: no call may come to a server that is not ready.
        """
        self._lines.look()
        self._checkpoints.look()
        if self._lines.full or self._checkpoints.full:
            self.append((), checkpoint="room")

    def end(self) -> None:
        """The last checkpoint, if it can be written; if not, the next boot line says that nobody closed this log."""
        with contextlib.suppress(AuditUnavailable):
            self.append((), checkpoint="close")

    def abandon(self) -> None:
        """Leaves the files open for good: a thread that hangs may still write, and to no other file that is opened."""
        self.abandoned = True

    def _begin_file(self) -> None:
        """Goes on in a new FILE, if that can be: one that grows is better than none. The last line is a checkpoint."""
        path = self._lines.path
        try:
            rotate(path, self._checkpoint)
            self._lines.reopen()
        except (OSError, BadLine, UnusableAuditFile) as error:
            _log.error("the audit log was not rotated", extra={"path": str(path), "cause": str(error)})
            self._full_at = self._lines.size + self._file_bytes
            self._lines.look()  # which stops the log if FILE is another already
            return
        self._full_at = self._file_bytes

    def _add_checkpoint(self, chain: Chain, reason: str) -> bytes:
        return chain.add_checkpoint(self.key, self.text(phase="checkpoint", reason=reason))

    def _ship(self) -> None:
        if self._unshipped:
            self._checkpoints.append(b"".join(self._unshipped))
            self._unshipped = []


def checkpoints_beside(path: Path) -> Path:
    """FILE.checkpoints."""
    return Path(f"{path}.checkpoints")


@contextlib.contextmanager
def open_log(
    path: Path,
    key_path: Path,
    *,
    sync: Sync = fdatasync,
    clock: Clock = time.time,
    every: int = CHECKPOINT_LINES,
    file_bytes: int = FILE_BYTES,
) -> Iterator[AuditLog]:
    """A log, made if absent, as is its key; the body ends it, or abandons it. Raises OperatorError."""
    beside = checkpoints_beside(path)
    new = _is_empty(path) and _is_empty(beside)
    if not new and not path.exists():
        raise UnusableAuditFile(f"{path} is missing beside its checkpoints: restore it, or move both away")
    key = _load_or_create(key_path, new=new)
    with contextlib.ExitStack() as files:
        lines = files.enter_context(contextlib.closing(AppendFile(path, sync)))
        checkpoints = files.enter_context(contextlib.closing(AppendFile(beside, sync)))
        for folder in {path.parent, key_path.parent} if new else {path.parent}:
            sync_directory(folder)
        found = resume(key, lines, checkpoints)
        found.chain.log = found.chain.log or os.urandom(16).hex()
        log = AuditLog(key, found, lines, checkpoints, clock=clock, every=every, file_bytes=file_bytes)
        try:
            log.begin(found)
        except AuditUnavailable:
            raise UnusableAuditFile(f"{path} takes no line: the disk is full or broken") from None
        try:
            yield log
        finally:
            if log.abandoned:
                files.pop_all()


def _is_empty(path: Path) -> bool:
    return not path.exists() or not path.stat().st_size


def _load_or_create(path: Path, *, new: bool) -> AuditKey:
    """A new key for a new log only: beside an old one a missing key is a loss, not a beginning."""
    if path.exists():
        return AuditKey.load(path)
    if not new:
        raise UnusableAuditKey(f"the audit key {path} is missing beside its log: restore it from its backup")
    return AuditKey.create(path)
