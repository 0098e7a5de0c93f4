"""Verification of audit logs: every line, and a comparison with checkpoints that were kept elsewhere.

The rules of this file: it trusts the key and the signatures of the checkpoints, and nothing else. It follows every line
of a log from the first one, and every checkpoint must be in the log as it was shipped, byte by byte. It stops at the
first place that is wrong.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from keyvault_server.audit.key import AuditKey, PublicAuditKey
from keyvault_server.audit.line import COUNTED_REFUSALS, BadLine, Fields, check_signature, parse_line
from keyvault_server.audit.log import checkpoints_path
from keyvault_server.audit.reading import PATIENCE, BadPlace, Lines, LogReader, Place, open_logs
from keyvault_server.audit.rotation import live_name


@dataclass(slots=True)
class Report:
    """Result of `verify`."""

    bad: BadPlace | None = None
    """The first place that is wrong. None: every line is as it was written."""
    lines: int = 0
    checkpoints: int = 0
    unshipped: int = 0
    """Checkpoints at the ends of the logs that are not among the shipped ones (yet)."""
    unproved: int = 0
    """Lines after the last checkpoints, which the public key alone cannot check; 0 with the whole key."""
    starts: int = 0
    """Boot lines."""
    crashes: int = 0
    """Boot lines that found no orderly stop before them."""
    refused: int = 0
    """Rejected calls without an identity and without a line of their own."""

    @property
    def whole(self) -> bool:
        """Whether nothing is wrong."""
        return self.bad is None


def verify(
    paths: Sequence[Path],
    key: PublicAuditKey,
    checkpoints: Sequence[Path] | None = None,
    *,
    since: Collection[int] = (),
    patience: float = PATIENCE,
) -> Report:
    """Verify these logs, each with the shipped `checkpoints`; without any, with the FILE.checkpoints next to each log.

    `since` has the first seqs of logs whose older files are kept elsewhere. The public key alone finds the same as the
    whole key, up to each log's last checkpoint.
    """
    report = Report()
    shipped = checkpoints or _own_checkpoints(paths)
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
    """Checkpoints of the log that the file lacks: the last ones; others would make it bad."""
    next: tuple[Place, bytes, Fields] | None = field(init=False)
    _lines: Iterator[tuple[Place, bytes, Fields]] = field(init=False)

    def __post_init__(self) -> None:
        name, first_seq = self.log.name, self.log.first_seq
        found = _read_checkpoints(self.path, self.patience)
        self._lines = (one for one in found if one[2]["log"] == name and one[2]["seq"] >= first_seq)
        self.next = next(self._lines, None)

    def compare(self, line: bytes, seq: int) -> None:
        """Compare the log's next checkpoint with the next shipped one. Raises BadPlace if they differ."""
        if self.next is None:
            self.missing += 1
            return
        place, shipped, fields = self.next
        if shipped != line:
            why = f"the checkpoint of seq {seq} is missing before it" if fields["seq"] > seq else ""
            raise BadPlace(place, why or f"there is no such checkpoint in {self.log.path}")
        self.next = next(self._lines, None)

    def refuse_rest(self) -> None:
        """Raise BadPlace if a shipped checkpoint is left at the end of the log: a genuine one proves a truncation."""
        if self.next is None:
            return
        place, line, fields = self.next
        try:
            check_signature(self.log.key, line)
        except BadLine as bad:
            raise BadPlace(place, str(bad)) from None
        if fields["seq"] <= self.log.chain.seq:
            raise BadPlace(place, f"there is no such checkpoint in {self.log.path}")
        raise self.log.bad(
            f"the log ends with it, but {place} is a checkpoint of seq {fields['seq']}: it was truncated"
        )


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
        elif fields["phase"] == COUNTED_REFUSALS:
            report.refused += fields["count"]
    for file in shipped:
        file.refuse_rest()
    missing = min(file.missing for file in shipped)
    if checkpoints and missing == checkpoints:
        raise BadPlace(Place(shipped[0].path, 0), f"there is no checkpoint of {reader.path} in it")
    report.checkpoints += checkpoints
    report.unshipped += missing
    if not isinstance(reader.key, AuditKey):
        report.unproved += reader.chain.since_checkpoint


def _own_checkpoints(paths: Sequence[Path]) -> list[Path]:
    """Return the FILE.checkpoints of each log; older files have none, and may be in other directories."""
    live = [path for path in paths if live_name(path) == path] or [live_name(path) for path in paths]
    return [checkpoints_path(path) for path in dict.fromkeys(live)]


def _refuse_foreign(path: Path, names: Collection[str], patience: float) -> None:
    """Raise BadPlace for a shipped line that is not a checkpoint, or is one of another log."""
    for place, _, fields in _read_checkpoints(path, patience):
        if fields["log"] not in names:
            raise BadPlace(place, "it is a checkpoint of a log that was not named")


def _read_checkpoints(path: Path, patience: float) -> Iterator[tuple[Place, bytes, Fields]]:
    with closing(Lines(path, patience)) as lines:
        for line in lines:
            try:
                fields = parse_line(line)
            except BadLine as bad:
                raise lines.bad(str(bad)) from None
            if fields["phase"] != "checkpoint":
                raise lines.bad("not a checkpoint")
            yield Place(path, lines.number), line, fields
