"""What a start makes of an audit log that is there: where it ends, and whether it may be continued.

The rule of this file: it trusts neither FILE nor FILE.checkpoints. The last checkpoint of the latter has to be in
FILE, and every line of FILE from there on has to follow. Only two things are mended, since a crash leaves them and
nobody was told otherwise: a last line without an end, and checkpoints that FILE.checkpoints does not have yet.
"""

from dataclasses import dataclass

from keyvault_server.audit.file import AppendFile, UnusableAuditFile
from keyvault_server.audit.key import AuditKey
from keyvault_server.audit.line import CHECKPOINT_LINES, MAX_LINE, BadLine, Chain, parsed

_FIRST_LOOK = 1024 * 1024
_LONGEST_LOOK = 2 * CHECKPOINT_LINES * MAX_LINE


@dataclass(frozen=True, slots=True)
class Resumed:
    """Where a log goes on."""

    chain: Chain
    state: str
    """new; closed: the last line is that of an orderly stop; open: it is not, the process died."""
    unshipped: list[bytes]
    """Checkpoints that FILE.checkpoints lacks."""
    torn: int
    """Bytes at the end of FILE that were cut off."""


def resume(key: AuditKey, lines: AppendFile, checkpoints: AppendFile) -> Resumed:
    """Follows FILE from the last checkpoint that was shipped, and cuts off torn ends. Raises UnusableAuditFile."""
    shipped, torn_checkpoint = _last_line(checkpoints)
    tail, torn = _tail_from(shipped, lines)
    chain, last, unshipped = Chain(), "", []
    try:
        if shipped:
            chain, last = Chain.at_checkpoint(key, shipped), parsed(shipped)["reason"]
        for line in tail:
            fields = chain.follow(key, line)
            last = fields.get("reason", "") if fields["phase"] == "checkpoint" else ""
            if fields["phase"] == "checkpoint":
                unshipped.append(line)
    except BadLine as bad:
        raise UnusableAuditFile(f"{lines.path}, after seq {chain.seq}: {bad} (see docs/audit.md)") from None
    lines.cut(lines.size - torn)
    checkpoints.cut(checkpoints.size - torn_checkpoint)
    state = "new" if not chain.seq else "closed" if last == "close" else "open"
    return Resumed(chain, state, unshipped, torn)


def _last_line(checkpoints: AppendFile) -> tuple[bytes, int]:
    """The last whole line, b"" if there is none; how many bytes come after it."""
    found = checkpoints.read(max(0, checkpoints.size - 2 * MAX_LINE))
    end = found.rfind(b"\n") + 1
    return found[found.rfind(b"\n", 0, max(0, end - 1)) + 1 : end], len(found) - end


def _tail_from(shipped: bytes, lines: AppendFile) -> tuple[list[bytes], int]:
    """The whole lines behind the shipped checkpoint, all if none was; how many bytes come after them."""
    window = _FIRST_LOOK
    while True:
        start = max(0, lines.size - window)
        *whole, torn = lines.read(start).split(b"\n")
        found = [line + b"\n" for line in whole]
        if not shipped and not start:
            return found, len(torn)
        if shipped and shipped in found:
            return found[found.index(shipped) + 1 :], len(torn)
        if not (start and shipped) or window > _LONGEST_LOOK:
            raise UnusableAuditFile(
                f"the last checkpoint of {lines.path.name}.checkpoints is not near the end of {lines.path}:"
                " one of them was cut off or replaced (see docs/audit.md)"
            )
        window *= 2
