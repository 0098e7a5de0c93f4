"""What a start makes of an audit log that is there: where it ends, and whether it may be continued.

The rule of this file: it trusts neither FILE nor FILE.checkpoints. The last checkpoint of the latter has to be in
FILE, and every line of FILE from there on has to follow. Only two things are mended, since a crash leaves them and
nobody was told otherwise: a last line without an end, and checkpoints that FILE.checkpoints does not have yet.

What is read need not be on the disk: whoever wrote it may have died before the fsync, or the fsync failed. So all that
may be unsynced is written again, and synced, before anything follows it. That is little, however long the log. A
checkpoint goes to FILE.checkpoints when FILE is synced up to it, and never before, so wherever the former has it, FILE
is safe as far; what comes after it is read here anyway. FILE.checkpoints takes no block before the one before it is
synced, and a block is the checkpoints of one append, which are fewer than its lines and half a kilobyte each.
"""

from dataclasses import dataclass
from typing import NamedTuple

from keyvault_server.audit.file import AppendFile, UnusableAuditFile
from keyvault_server.audit.key import AuditKey
from keyvault_server.audit.line import CHECKPOINT_LINES, MAX_LINE, ROTATE, BadLine, Chain, parsed

_FIRST_LOOK = 1024 * 1024
_CHECKPOINTS_OF_ONE_APPEND = 1024 * 1024
"""Bytes of FILE.checkpoints that may be unsynced at most, and more than its last line."""
_LONGEST_LOOK = 2 * CHECKPOINT_LINES * MAX_LINE


@dataclass(frozen=True, slots=True)
class Resumed:
    """Where a log goes on."""

    chain: Chain
    state: str
    """new; closed: the last line is that of an orderly stop; open: it is not, the process died."""
    unshipped: list[bytes]
    """Checkpoints that FILE.checkpoints lacks."""
    checkpoint: bytes
    """The last one; b"" if there is none."""
    rotating: bool
    """A crash came between the steps of a rotation."""
    torn: int
    """Bytes at the end of FILE that were cut off."""


class _End(NamedTuple):
    """The end of a file, as it is read."""

    start: int
    lines: list[bytes]
    """The whole lines from there on; the first one may lack its beginning."""
    torn: int
    """Bytes that come after them."""

    def settle(self, file: AppendFile) -> None:
        """Cuts off what is torn and makes the rest durable."""
        file.end_with(b"".join(self.lines), self.start)


def resume(key: AuditKey, lines: AppendFile, checkpoints: AppendFile) -> Resumed:
    """Follows FILE from the last checkpoint that was shipped; then settles the ends. Raises UnusableAuditFile."""
    copies = _end(checkpoints, max(0, checkpoints.size - _CHECKPOINTS_OF_ONE_APPEND))
    shipped = copies.lines[-1] if copies.lines else b""
    tail = _end_behind(shipped, lines)
    chain, last, unshipped = Chain(), "", []
    try:
        if shipped:
            chain, last = Chain.at_checkpoint(key, shipped), parsed(shipped)["reason"]
        for line in tail.lines:
            fields = chain.follow(key, line)
            last = fields.get("reason", "") if fields["phase"] == "checkpoint" else ""
            if fields["phase"] == "checkpoint":
                unshipped.append(line)
    except BadLine as bad:
        raise UnusableAuditFile(f"{lines.path}, after seq {chain.seq}: {bad} (see docs/audit.md)") from None
    tail.settle(lines)
    copies.settle(checkpoints)
    state = "new" if not chain.seq else "closed" if last == "close" else "open"
    checkpoint = unshipped[-1] if unshipped else shipped
    rotating = last == ROTATE and lines.size > len(checkpoint)
    return Resumed(chain, state, unshipped, checkpoint, rotating, tail.torn)


def _end(file: AppendFile, start: int) -> _End:
    *whole, torn = file.read(start).split(b"\n")
    return _End(start, [line + b"\n" for line in whole], len(torn))


def _end_behind(shipped: bytes, lines: AppendFile) -> _End:
    """What comes behind the shipped checkpoint, all if none was."""
    window = _FIRST_LOOK
    while True:
        end = _end(lines, max(0, lines.size - window))
        if not shipped and not end.start:
            return end
        if shipped and shipped in end.lines:
            count = end.lines.index(shipped) + 1
            return _End(end.start + len(b"".join(end.lines[:count])), end.lines[count:], end.torn)
        if not (end.start and shipped) or window > _LONGEST_LOOK:
            raise UnusableAuditFile(
                f"the last checkpoint of {lines.path.name}.checkpoints is not near the end of {lines.path}:"
                " one of them was cut off or replaced (see docs/audit.md)"
            )
        window *= 2
