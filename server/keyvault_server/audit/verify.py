"""Whether audit logs are what the vault wrote, compared with checkpoints that were kept elsewhere.

The rules of this file. It believes nothing but the key and, of the checkpoints, their signatures: every line of a log
is followed from the first, and every checkpoint has to be in it as it was shipped, byte by byte. It stops at the first
place that is wrong.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from keyvault_server.audit.key import AuditKey, PublicAuditKey
from keyvault_server.audit.line import REFUSED, BadLine, Fields, check_signature, parsed
from keyvault_server.audit.log import checkpoints_beside
from keyvault_server.audit.reading import PATIENCE, BadPlace, Lines, LogReader, Place, open_logs
from keyvault_server.audit.rotation import live_name


@dataclass(slots=True)
class Report:
    """What `verify` found."""

    bad: BadPlace | None = None
    """None: every line is as it was written, up to the last one that is there."""
    lines: int = 0
    checkpoints: int = 0
    unshipped: int = 0
    """Checkpoints at the ends of the logs that the shipped ones do not have (yet)."""
    unproved: int = 0
    """Lines behind the last checkpoints, which the public key alone cannot check; 0 with the whole key."""
    starts: int = 0
    """Boot lines."""
    crashes: int = 0
    """Boot lines that found no orderly stop before them."""
    refused: int = 0
    """Calls without an identity that were refused and have no line of their own."""

    @property
    def whole(self) -> bool:
        """True if nothing is wrong."""
        return self.bad is None


def verify(
    paths: Sequence[Path],
    key: PublicAuditKey,
    checkpoints: Sequence[Path] | None = None,
    *,
    since: Collection[int] = (),
    patience: float = PATIENCE,
) -> Report:
    """Reads these logs, each against the shipped `checkpoints`; against FILE.checkpoints beside each if none are given.

    `since` has the seqs with which logs begin whose older files are not at hand. With the public key alone it finds the
    same up to each log's last checkpoint.
    """
    report = Report()
    shipped = checkpoints or _checkpoints_beside(paths)
    try:
        with open_logs(paths, key, since=since, patience=patience) as logs:
            for log in logs:
                _verify_log(log, [_Shipped(file, log, patience) for file in shipped], report)
        for path in shipped:
            _refuse_foreign(path, {log.name for log in logs}, patience)
    except BadPlace as bad:
        report.bad = bad
    return report


@dataclass(slots=True)
class _Shipped:
    """The checkpoints of one log in one file, in order."""

    path: Path
    log: LogReader
    patience: float
    missing: int = 0
    """Checkpoints of the log that the file does not have: its last ones, or it is bad."""
    next: tuple[Place, bytes, Fields] | None = field(init=False)
    _lines: Iterator[tuple[Place, bytes, Fields]] = field(init=False)

    def __post_init__(self) -> None:
        name, first_seq = self.log.name, self.log.first_seq
        found = _checkpoints(self.path, self.patience)
        self._lines = (one for one in found if one[2]["log"] == name and one[2]["seq"] >= first_seq)
        self.next = next(self._lines, None)

    def compare(self, line: bytes, seq: int) -> None:
        """Takes the log's next checkpoint. Raises BadPlace for the shipped one if that is not it."""
        if self.next is None:
            self.missing += 1
            return
        place, shipped, fields = self.next
        if shipped != line:
            why = f"the checkpoint of seq {seq} is missing before it" if fields["seq"] > seq else ""
            raise BadPlace(place, why or f"{self.log.path} has no such checkpoint")
        self.next = next(self._lines, None)

    def refuse_rest(self) -> None:
        """The log has ended: a genuine checkpoint that is left says that it was cut off."""
        if self.next is None:
            return
        place, line, fields = self.next
        try:
            check_signature(self.log.key, line)
        except BadLine as bad:
            raise BadPlace(place, str(bad)) from None
        if fields["seq"] <= self.log.chain.seq:
            raise BadPlace(place, f"{self.log.path} has no such checkpoint there")
        raise self.log.bad(f"the log ends with it, but {place} is a checkpoint of seq {fields['seq']}: it was cut off")


def _verify_log(reader: LogReader, shipped: list[_Shipped], report: Report) -> None:
    checkpoints = 0
    for line, fields in reader.read_on():
        report.lines += 1
        if fields["phase"] == "checkpoint":
            checkpoints += 1
            for file in shipped:
                file.compare(line, fields["seq"])
        elif fields["phase"] == "boot":
            report.starts += 1
            report.crashes += fields.get("found") == "open"
        elif fields["phase"] == REFUSED:
            report.refused += fields["count"]
    for file in shipped:
        file.refuse_rest()
    missing = min(file.missing for file in shipped)
    if checkpoints and missing == checkpoints:
        raise BadPlace(Place(shipped[0].path, 0), f"it has no checkpoint of {reader.path}")
    report.checkpoints += checkpoints
    report.unshipped += missing
    if not isinstance(reader.key, AuditKey):
        report.unproved += reader.chain.since


def _checkpoints_beside(paths: Sequence[Path]) -> list[Path]:
    """Of each log; older files may be elsewhere, and have none beside them."""
    live = [path for path in paths if live_name(path) == path] or [live_name(path) for path in paths]
    return [checkpoints_beside(path) for path in dict.fromkeys(live)]


def _refuse_foreign(path: Path, names: Collection[str], patience: float) -> None:
    """Raises BadPlace for a shipped line that is no checkpoint, or of a log that is not at hand."""
    for place, _, fields in _checkpoints(path, patience):
        if fields["log"] not in names:
            raise BadPlace(place, "it is a checkpoint of a log that was not given")


def _checkpoints(path: Path, patience: float) -> Iterator[tuple[Place, bytes, Fields]]:
    with closing(Lines(path, patience)) as lines:
        for line in lines:
            try:
                fields = parsed(line)
            except BadLine as bad:
                raise lines.bad(str(bad)) from None
            if fields["phase"] != "checkpoint":
                raise lines.bad("it is no checkpoint")
            yield Place(path, lines.number), line, fields
