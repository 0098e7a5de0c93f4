"""Whether audit logs are what the vault wrote, compared with checkpoints that were kept elsewhere.

The rules of this file. It believes nothing but the key and, of the checkpoints, their signatures: every line of FILE is
followed from the first, and every checkpoint has to be in FILE as it was shipped, byte by byte. It stops at the first
place that is wrong. It reads line by line: memory does not grow with the files.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from keyvault_server.audit.key import AuditKey, PublicAuditKey
from keyvault_server.audit.line import MAX_LINE, REFUSED, BadLine, Chain, Fields, check_signature, parsed
from keyvault_server.audit.log import checkpoints_beside

PATIENCE = 1.0
"""Seconds in which a server at work ends the line that it is writing."""
_MOMENT = 0.05


class Place(NamedTuple):
    """A line of a file, numbered from 1; 0 means the file as a whole."""

    path: Path
    number: int

    def __str__(self) -> str:
        return f"{self.path} line {self.number}" if self.number else str(self.path)


class BadPlace(Exception):
    """The first place that is wrong; str() is one sentence."""

    def __init__(self, place: Place, why: str) -> None:
        super().__init__(place, why)
        self.place = place
        self.why = why

    def __str__(self) -> str:
        return f"{self.place}: {self.why}"


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


class LogReader:
    """One log, line by line; each is checked before it is given out. Raises BadPlace."""

    def __init__(self, path: Path, key: PublicAuditKey, patience: float = PATIENCE) -> None:
        self.path = path
        self.chain = Chain()
        self.number = 0
        """The last line's, from 1."""
        self.key = key
        self._lines = _Lines(path, patience)

    def read_on(self) -> Iterator[tuple[bytes, Fields]]:
        """The lines from where the last call ended to the present end of the file."""
        for line in self._lines.read_on():
            self.number += 1
            try:
                fields = self.chain.follow(self.key, line)
            except BadLine as bad:
                raise self.bad(str(bad)) from None
            yield line, fields

    def bad(self, why: str) -> BadPlace:
        """The present line is wrong."""
        return BadPlace(Place(self.path, self.number), why)

    def close(self) -> None:
        """Closes the file."""
        self._lines.close()


def verify(
    paths: Sequence[Path],
    key: PublicAuditKey,
    checkpoints: Sequence[Path] | None = None,
    *,
    patience: float = PATIENCE,
) -> Report:
    """Reads these logs, each against the shipped `checkpoints`; against FILE.checkpoints beside each if none are given.

    With the public key alone it finds the same up to each log's last checkpoint.
    """
    report = Report()
    shipped = checkpoints or [checkpoints_beside(path) for path in paths]
    try:
        names = _names(paths, patience)
        for name, path in names.items():
            with closing(LogReader(path, key, patience)) as reader:
                _verify_log(reader, [_Shipped(file, name, patience) for file in shipped], report)
        for path in shipped:
            _refuse_foreign(path, names, patience)
    except BadPlace as bad:
        report.bad = bad
    return report


class _Lines:
    """The lines of a file, none longer than a log's. A last one without an end is waited for, then refused."""

    def __init__(self, path: Path, patience: float) -> None:
        self._path = path
        self._patience = patience
        self._number = 0
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise BadPlace(Place(path, 0), f"it cannot be read: {error.strerror}") from None

    def read_on(self) -> Iterator[bytes]:
        while line := self._file.readline(MAX_LINE + 1):
            self._number += 1
            deadline = time.monotonic() + self._patience
            while not line.endswith(b"\n"):
                if len(line) > MAX_LINE or time.monotonic() >= deadline:
                    raise BadPlace(Place(self._path, self._number), "it has no end: it was cut off, or never written")
                time.sleep(_MOMENT)
                line += self._file.readline(MAX_LINE + 1 - len(line))
            yield line

    def close(self) -> None:
        self._file.close()


@dataclass(slots=True)
class _Shipped:
    """The checkpoints of one log in one file, in order."""

    path: Path
    log: str
    patience: float
    missing: int = 0
    """Checkpoints of the log that the file does not have: its last ones, or it is bad."""
    next: tuple[Place, bytes, Fields] | None = field(init=False)
    _lines: Iterator[tuple[Place, bytes, Fields]] = field(init=False)

    def __post_init__(self) -> None:
        self._lines = (found for found in _checkpoints(self.path, self.patience) if found[2]["log"] == self.log)
        self.next = next(self._lines, None)

    def compare(self, log: Path, line: bytes, seq: int) -> None:
        """Takes the log's next checkpoint. Raises BadPlace for the shipped one if that is not it."""
        if self.next is None:
            self.missing += 1
            return
        place, shipped, fields = self.next
        if shipped != line:
            why = f"the checkpoint of seq {seq} is missing before it" if fields["seq"] > seq else ""
            raise BadPlace(place, why or f"{log} has no such checkpoint")
        self.next = next(self._lines, None)

    def refuse_rest(self, key: PublicAuditKey, reader: LogReader) -> None:
        """The log has ended: a genuine checkpoint that is left says that it was cut off."""
        if self.next is None:
            return
        place, line, fields = self.next
        try:
            check_signature(key, line)
        except BadLine as bad:
            raise BadPlace(place, str(bad)) from None
        if fields["seq"] <= reader.chain.seq:
            raise BadPlace(place, f"{reader.path} has no such checkpoint there")
        raise reader.bad(f"the log ends with it, but {place} is a checkpoint of seq {fields['seq']}: it was cut off")


def _verify_log(reader: LogReader, shipped: list[_Shipped], report: Report) -> None:
    checkpoints = 0
    for line, fields in reader.read_on():
        report.lines += 1
        if fields["phase"] == "checkpoint":
            checkpoints += 1
            for file in shipped:
                file.compare(reader.path, line, fields["seq"])
        elif fields["phase"] == "boot":
            report.starts += 1
            report.crashes += fields.get("found") == "open"
        elif fields["phase"] == REFUSED:
            report.refused += fields["count"]
    for file in shipped:
        file.refuse_rest(reader.key, reader)
    missing = min(file.missing for file in shipped)
    if checkpoints and missing == checkpoints:
        raise BadPlace(Place(shipped[0].path, 0), f"it has no checkpoint of {reader.path}")
    report.checkpoints += checkpoints
    report.unshipped += missing
    if not isinstance(reader.key, AuditKey):
        report.unproved += reader.chain.since


def _names(paths: Sequence[Path], patience: float) -> dict[str, Path]:
    """The logs by name, as their first lines have it."""
    names: dict[str, Path] = {}
    for path in paths:
        place = Place(path, 1)
        with closing(_Lines(path, patience)) as lines:
            first = next(lines.read_on(), None)
        if first is None:
            raise BadPlace(place, "the file is empty: all that was written is gone")
        try:
            name = parsed(first).get("log", "")
        except BadLine as bad:
            raise BadPlace(place, str(bad)) from None
        if name in names:
            raise BadPlace(place, f"it is the same log as {names[name]}: give each once")
        names[name] = path
    return names


def _refuse_foreign(path: Path, names: dict[str, Path], patience: float) -> None:
    """Raises BadPlace for a shipped line that is no checkpoint, or of a log that is not at hand."""
    for place, _, fields in _checkpoints(path, patience):
        if fields["log"] not in names:
            raise BadPlace(place, "it is a checkpoint of a log that was not given")


def _checkpoints(path: Path, patience: float) -> Iterator[tuple[Place, bytes, Fields]]:
    with closing(_Lines(path, patience)) as lines:
        for number, line in enumerate(lines.read_on(), 1):
            place = Place(path, number)
            try:
                fields = parsed(line)
            except BadLine as bad:
                raise BadPlace(place, str(bad)) from None
            if fields["phase"] != "checkpoint":
                raise BadPlace(place, "it is no checkpoint")
            yield place, line, fields
