"""Recovery: where an existing audit log ends, and whether a start may continue it.

The rules of this file:

- It trusts neither FILE nor FILE.checkpoints. The last checkpoint of FILE.checkpoints must be in FILE, and every line
  of FILE after it must follow.
- It fixes only what a crash leaves, and what no caller was answered: a last line without an end, a torn batch, and
  checkpoints that FILE.checkpoints lacks.
- What it reads may be in the page cache alone, since the last process may have died before the fsync, or the fsync may
  have failed. So everything that may be unsynced is written again and synced before a line follows it.

After a power cut, any sector of the last batch may be missing while later ones reached the disk. What follows its first
bad line is removed, and the boot line says how much. But a batch is synced before the next one is written, so a power
cut leaves no bad line that a later batch follows: such a log is refused.

The unsynced part is small, however long the log. A checkpoint is copied to FILE.checkpoints only when FILE is synced up
to it, so FILE can be unsynced only after the last copied one. FILE.checkpoints takes a block only when the block before
is synced. A block has the checkpoints of one append: fewer than its lines, half a kilobyte each.
"""

from dataclasses import dataclass
from typing import NamedTuple

from keyvault_server.audit.file import AppendFile, UnusableAuditFile
from keyvault_server.audit.key import AuditKey
from keyvault_server.audit.line import CHECKPOINT_LINES, MAX_LINE, ROTATE, BadLine, Chain, is_intact, parse_line

_FIRST_LOOK = 1024 * 1024
_CHECKPOINTS_OF_ONE_APPEND = 1024 * 1024
"""Maximum number of unsynced bytes in FILE.checkpoints; more than its last line has."""
_SEQ = b'{"seq":'  # how every line begins
_LONGEST_LOOK = 2 * CHECKPOINT_LINES * MAX_LINE


@dataclass(frozen=True, slots=True)
class Resumed:
    """The place at which a log goes on."""

    chain: Chain
    state: str
    """new; closed: the last line is the checkpoint of an orderly stop; open: it is not, since the process died."""
    unshipped: list[bytes]
    """Checkpoints that FILE.checkpoints lacks."""
    checkpoint: bytes
    """The last checkpoint of FILE; b"" if there is none."""
    rotating: bool
    """Whether a crash interrupted a rotation."""
    torn: int
    """Number of bytes of a torn last batch, or of a partial last line, which were removed from FILE."""


class _Tail(NamedTuple):
    """The end of a file."""

    start: int
    """Offset at which it begins."""
    lines: list[bytes]
    """Its whole lines; the first one may lack its beginning."""
    torn: int
    """Number of bytes after them: a torn batch, or a partial last line."""

    def without(self, index: int) -> "_Tail":
        """Return the tail up to this line; it and what follows are torn."""
        return _Tail(self.start, self.lines[:index], self.torn + sum(map(len, self.lines[index:])))

    def rewrite(self, file: AppendFile) -> None:
        """Remove what is torn and make the whole lines durable."""
        file.rewrite_end(b"".join(self.lines), self.start)


def resume(key: AuditKey, lines: AppendFile, checkpoints: AppendFile) -> Resumed:
    """Check the end of a log, fix what a crash left, and return where to go on. Raises UnusableAuditFile.

    1. Read the last checkpoint in FILE.checkpoints before anything torn: the shipped one.
    2. Find it in FILE, and read the lines after it; all lines if there is none.
    3. Follow these lines, from the shipped checkpoint on; collect the checkpoints among them. A line that does not
       follow begins the torn batch, unless a later batch shows that its batch was synced.
    4. Write both ends again, without what is torn, so that they are durable. FILE comes first.
    5. The last line says how the last process ended.
    """
    # 1.
    copies = _read_tail(checkpoints, max(0, checkpoints.size - _CHECKPOINTS_OF_ONE_APPEND))
    copies = _without_torn_copies(copies, lines)
    shipped = copies.lines[-1] if copies.lines else b""
    # 2.
    tail = _read_after(shipped, lines)
    # 3. The shipped checkpoint is trusted for its signature alone: the lines before it are not read.
    chain, last, unshipped = Chain(), "", []
    try:
        if shipped:
            chain, last = Chain.at_checkpoint(key, shipped), parse_line(shipped)["reason"]
        for index, line in enumerate(tail.lines):
            try:
                fields = chain.follow(key, line)
            except BadLine:
                following = tail.lines[index + 1 :]
                # Nothing else shows that the key is the log's, if even the first line is bad.
                known = chain.seq or (not checkpoints.size and any(is_intact(key, each) for each in following))
                if not known or not _is_torn(key, line, following):
                    raise
                tail = tail.without(index)
                break
            last = fields.get("reason", "") if fields["phase"] == "checkpoint" else ""
            if fields["phase"] == "checkpoint":
                unshipped.append(line)
    except BadLine as bad:
        raise UnusableAuditFile(f"{lines.path}, after seq {chain.seq}: {bad} (see docs/audit.md)") from None
    # 4. Nothing was changed up to here, so a log that is refused stays as it was found.
    tail.rewrite(lines)
    copies.rewrite(checkpoints)
    # 5. A FILE with more than a `rotate` checkpoint has not been replaced yet; one with that line alone is the new one.
    state = "new" if not chain.seq else "closed" if last == "close" else "open"
    checkpoint = unshipped[-1] if unshipped else shipped
    rotating = last == ROTATE and lines.size > len(checkpoint)
    return Resumed(chain, state, unshipped, checkpoint, rotating, tail.torn)


def _without_torn_copies(copies: _Tail, lines: AppendFile) -> _Tail:
    """Return the copies before the first torn one, if FILE still has every copy that is dropped with it.

    FILE is synced up to a checkpoint before it is copied. A copy that FILE lacks proves that FILE was truncated, and so
    it is kept: the start is then refused. The first line may lack its beginning, which is not the disk's fault.
    """
    torn = next((index for index, line in enumerate(copies.lines) if index and _is_garbage(line)), None)
    if torn is None:
        return copies
    kept, dropped = copies.without(torn), [line for line in copies.lines[torn:] if not _is_garbage(line)]
    try:
        following = set(_read_after(kept.lines[-1], lines).lines)
    except UnusableAuditFile:
        return copies
    return kept if following.issuperset(dropped) else copies


def _is_torn(key: AuditKey, bad: bytes, following: list[bytes]) -> bool:
    """Return whether a power cut can have left a line that does not follow, with these lines after it.

    A missing sector reads as zeros. Each batch is synced before the next one, so no line of a later batch is among
    those that follow, nor behind zeros in the bad line itself.
    """
    merged = [_SEQ + rest for rest in bad[1:].split(_SEQ)[1:]]
    later = any(is_intact(key, line) and "batch" in parse_line(line) for line in (*merged, *following))
    return b"\0" in bad and _is_garbage(bad) and not later


def _is_garbage(line: bytes) -> bool:
    """Return whether sectors of a line are missing. A line that was changed or moved still parses."""
    try:
        parse_line(line)
    except BadLine:
        return line != b"\n"
    return False


def _read_tail(file: AppendFile, start: int) -> _Tail:
    *whole, torn = file.read(start).split(b"\n")
    return _Tail(start, [line + b"\n" for line in whole], len(torn))


def _read_after(shipped: bytes, lines: AppendFile) -> _Tail:
    """Return what follows the shipped checkpoint, or everything if there is none. Raises UnusableAuditFile."""
    window = _FIRST_LOOK
    while True:
        tail = _read_tail(lines, max(0, lines.size - window))
        if not shipped and not tail.start:
            return tail
        if shipped and shipped in tail.lines:
            count = tail.lines.index(shipped) + 1
            return _Tail(tail.start + len(b"".join(tail.lines[:count])), tail.lines[count:], tail.torn)
        if not (tail.start and shipped) or window > _LONGEST_LOOK:
            raise UnusableAuditFile(
                f"{lines.path}: the last checkpoint of {lines.path.name}.checkpoints is not near its end:"
                " one of the two files was truncated or replaced (see docs/audit.md)"
            )
        window *= 2
