"""One audit log: FILE has the lines, and FILE.checkpoints a copy of the checkpoint lines.

The rules of this file:

- A checkpoint is written to FILE first, then to FILE.checkpoints; no line is accepted until it is in both.
- Lines that cannot be written leave the chain where it was.
- A FILE that is large enough is kept under another name (rotation.py); FILE.checkpoints is not rotated.
- It blocks, so `trail.py` calls it on a thread.
"""

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from keyvault_api.files import sync_directory
from keyvault_server.audit.file import AppendFile, Sync, UnusableAuditFile
from keyvault_server.audit.key import AuditKey, UnusableAuditKey
from keyvault_server.audit.line import CHECKPOINT_LINES, ROTATE, VERSION, BadLine, Chain, encode_fields
from keyvault_server.audit.recovery import Resumed, resume
from keyvault_server.audit.rotation import rotate
from keyvault_server.core.errors import AuditUnavailable

Clock = Callable[[], float]

FILE_BYTES = 1024 * 1024 * 1024
"""Size at which FILE is kept under another name; it may be larger by one batch of lines."""

fdatasync: Sync = getattr(os, "fdatasync", os.fsync)

_log = logging.getLogger(__name__)


class AuditLog:
    """An open log. `open_log` makes it; it belongs to one thread at a time."""

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
        """Whether the files must stay open; see `abandon`."""

    def text(self, **fields: str | int | bool | None) -> str:
        """Return a line's text for `append`: the time, this process, and these fields."""
        return encode_fields(ts=int(self._clock() * 1_000_000), boot=self._boot, **fields)

    def begin(self, found: Resumed) -> None:
        """Complete a rotation that a crash interrupted, then write the boot line and a checkpoint."""
        if found.torn:
            _log.warning("removed the torn end of the audit log", extra={"bytes": found.torn})
        if found.rotating:
            self._ship()
            self._begin_file()
        boot = self.text(phase="boot", log=self._chain.log, version=VERSION, found=found.state, cut=found.torn or None)
        self.append([boot], checkpoint="start")

    def append(self, texts: Sequence[str], *, checkpoint: str = "") -> list[int]:
        """Write lines, durably, and return their seqs; `checkpoint` is the reason of one to write after them, if any.

        Raises AuditUnavailable: no line was written; or this is unknown, and the log takes none until the next start.
        """
        self._checkpoints.check_unchanged()
        self._ship()
        if self._lines.size >= self._full_at:
            self._append((), checkpoint=ROTATE)
            self._ship()
            self._begin_file()
        return self._append(texts, checkpoint=checkpoint)

    def _append(self, texts: Sequence[str], *, checkpoint: str) -> list[int]:
        chain, block, seqs, signed = self._chain.copy(), bytearray(), [], []
        for text in texts:
            block += chain.add(self.key, text, first=not block)
            seqs.append(chain.seq)
            if chain.since_checkpoint == self._every:
                signed.append(self._add_checkpoint(chain, "lines"))
                block += signed[-1]
        if checkpoint:
            signed.append(self._add_checkpoint(chain, checkpoint, first=not block))
            block += signed[-1]
        self._lines.append(block)
        self._chain = chain
        self._unshipped += signed
        self._checkpoint = signed[-1] if signed else self._checkpoint
        with contextlib.suppress(AuditUnavailable):  # these lines are written; the next ones will be refused
            self._ship()
        return seqs

    def add_checkpoint_if_due(self) -> None:
        """Write a checkpoint if lines came after the last one. Raises AuditUnavailable."""
        if self._chain.since_checkpoint:
            self.append((), checkpoint="time")

    def check(self) -> None:
        """Raise AuditUnavailable if the log is known not to take the next line.

        If the disk was full, try again with a checkpoint: while the server is not ready, no call would.
        """
        self._lines.check_unchanged()
        self._checkpoints.check_unchanged()
        if self._lines.full or self._checkpoints.full:
            self.append((), checkpoint="room")

    def end(self) -> None:
        """Write the last checkpoint. If that fails, the next boot line says that the log was not closed."""
        with contextlib.suppress(AuditUnavailable):
            self.append((), checkpoint="close")

    def abandon(self) -> None:
        """Leave the files open for good: a thread that hangs may still write, and must not write to another file."""
        self.abandoned = True

    def _begin_file(self) -> None:
        """Go on in a new FILE, after a checkpoint. If that fails, the old one grows: that is better than no log."""
        path = self._lines.path
        try:
            rotate(path, self._checkpoint)
            self._lines.reopen()
        except (OSError, BadLine, UnusableAuditFile) as error:
            _log.error("the audit log was not rotated", extra={"path": str(path), "cause": str(error)})
            self._full_at = self._lines.size + self._file_bytes
            self._lines.check_unchanged()  # stops the log if another FILE is there already
            return
        self._full_at = self._file_bytes

    def _add_checkpoint(self, chain: Chain, reason: str, *, first: bool = False) -> bytes:
        return chain.add_checkpoint(self.key, self.text(phase="checkpoint", reason=reason), first=first)

    def _ship(self) -> None:
        if self._unshipped:
            self._checkpoints.append(b"".join(self._unshipped))
            self._unshipped = []


def checkpoints_path(path: Path) -> Path:
    """Return the path of FILE.checkpoints."""
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
    """Open a log; create it and its key if they do not exist. The body ends or abandons it. Raises OperatorError."""
    shipped = checkpoints_path(path)
    new = _is_empty(path) and _is_empty(shipped)
    if not new and not path.exists():
        raise UnusableAuditFile(f"{path}: missing, but its checkpoints exist: restore it, or move both away")
    key = _load_or_create(key_path, new=new)
    with contextlib.ExitStack() as files:
        lines = files.enter_context(contextlib.closing(AppendFile(path, sync)))
        checkpoints = files.enter_context(contextlib.closing(AppendFile(shipped, sync)))
        for folder in {path.parent, key_path.parent} if new else {path.parent}:
            sync_directory(folder)
        found = resume(key, lines, checkpoints)
        found.chain.log = found.chain.log or os.urandom(16).hex()
        log = AuditLog(key, found, lines, checkpoints, clock=clock, every=every, file_bytes=file_bytes)
        try:
            log.begin(found)
        except AuditUnavailable:
            raise UnusableAuditFile(f"{path}: cannot be written: check whether its disk is full or failing") from None
        try:
            yield log
        finally:
            if log.abandoned:
                files.pop_all()


def _is_empty(path: Path) -> bool:
    return not path.exists() or not path.stat().st_size


def _load_or_create(path: Path, *, new: bool) -> AuditKey:
    """Load the key; create one for a new log only, since the key of an existing log was lost."""
    if path.exists():
        return AuditKey.load(path)
    if not new:
        raise UnusableAuditKey(f"{path}: the audit key is missing, but its log exists: restore it from its backup")
    return AuditKey.create(path)
