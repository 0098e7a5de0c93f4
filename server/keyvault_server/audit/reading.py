"""Reading audit logs: file after file, line by line, each line checked before it is returned.

The rules of this file:

- It trusts nothing but the key.
- A file's name does not say which file comes next. The next file begins with the checkpoint that the last one ends
  with, the same bytes.
- Memory does not grow with the files.
- A server may be running: it adds lines and replaces FILE while they are read.
"""

import itertools
import os
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from keyvault_server.audit.key import PublicAuditKey
from keyvault_server.audit.line import MAX_LINE, ROTATE, BadLine, Chain, Fields, parse_line
from keyvault_server.audit.rotation import files_of

PATIENCE = 1.0
"""Seconds to wait for the end of a line that a running server is writing."""
_MOMENT = 0.05


class Place(NamedTuple):
    """A line of a file, numbered from 1; 0 is the whole file."""

    path: Path
    number: int

    def __str__(self) -> str:
        return f"{self.path} line {self.number}" if self.number else str(self.path)


class BadPlace(Exception):
    """The first place that is wrong; str() is one line that names it and says why."""

    def __init__(self, place: Place, why: str) -> None:
        super().__init__(place, why)
        self.place = place
        self.why = why

    def __str__(self) -> str:
        return f"{self.place}: {self.why}"


class Lines:
    """The lines of a file, none longer than MAX_LINE. A last line without an end is waited for, then refused."""

    def __init__(self, path: Path, patience: float) -> None:
        self.path = path
        self.number = 0
        """Number of the last line, from 1."""
        self._patience = patience
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise BadPlace(Place(path, 0), f"cannot be read: {error.strerror}") from None

    def __iter__(self) -> Iterator[bytes]:
        """Iterate from where the last iteration ended to the current end of the file."""
        while line := self._file.readline(MAX_LINE + 1):
            self.number += 1
            deadline = time.monotonic() + self._patience
            while not line.endswith(b"\n"):
                if len(line) > MAX_LINE or time.monotonic() >= deadline:
                    raise self.bad("it has no end: it was truncated, or never written")
                time.sleep(_MOMENT)
                line += self._file.readline(MAX_LINE + 1 - len(line))
            yield line

    def bad(self, why: str) -> BadPlace:
        """Return the error that the current line is wrong."""
        return BadPlace(Place(self.path, self.number), why)

    @property
    def identity(self) -> tuple[int, int]:
        """Device and inode: the same for every name of the file."""
        status = os.fstat(self._file.fileno())
        return status.st_dev, status.st_ino

    def close(self) -> None:
        """Close the file."""
        self._file.close()


@contextmanager
def open_logs(
    paths: Iterable[Path], key: PublicAuditKey, *, since: Collection[int] = (), patience: float = PATIENCE
) -> "Iterator[list[LogReader]]":
    """Open the logs of these files, and of older files next to each FILE. Raises BadPlace.

    A log begins with its first line, or with a seq of `since`, if older files are kept elsewhere.
    """
    files = _Files(paths, patience)
    logs: dict[str, list[tuple[int, bytes, Path]]] = {}
    for first, path in files.by_first_line().items():
        try:
            fields = parse_line(first)
        except BadLine as bad:
            raise BadPlace(Place(path, 1), str(bad)) from None
        logs.setdefault(fields.get("log", ""), []).append((fields["seq"], first, path))
    with ExitStack() as stack:
        begins = [{first: path for _, first, path in sorted(log)} for log in logs.values()]
        yield [stack.enter_context(closing(LogReader(files, log, key, since))) for log in begins]


class LogReader:
    """One log. Raises BadPlace."""

    def __init__(
        self, files: "_Files", begins: Mapping[bytes, Path], key: PublicAuditKey, since: Collection[int]
    ) -> None:
        """`begins` has the paths of the files, by their first lines, the oldest first."""
        self.key = key
        self._files = files
        self._since = since
        self._last, *to_come = begins
        self._to_come = {first: begins[first] for first in to_come}
        first = parse_line(self._last)
        self.name: str = first.get("log", "")
        self.first_seq: int = first["seq"]
        """Seq of the first line that can be read."""
        self.chain = Chain()
        self._begun = self._rotated = False
        lines = files.begun(self._last)
        if lines is None:
            raise BadPlace(Place(begins[self._last], 1), "the file was removed while it was read")
        self._lines = lines

    @property
    def path(self) -> Path:
        """Path of the current file."""
        return self._lines.path

    @property
    def place(self) -> Place:
        """Place of the current line."""
        return Place(self._lines.path, self._lines.number)

    def read_on(self) -> Iterator[tuple[bytes, Fields]]:
        """Return the lines from where the last call ended to the current end of the log."""
        if not self._begun:
            self._begun = True
            yield self._last, self._check(self._last, first=True)
        while True:
            for line in self._lines:
                yield line, self._check(line)
            if not (self._rotated and self._go_on()):
                break
        for path in self._to_come.values():
            why = f"no file ends with it: the file before is missing, or {self.path} was truncated"
            raise BadPlace(Place(path, 1), why)

    def bad(self, why: str) -> BadPlace:
        """Return the error that the current line is wrong."""
        return self._lines.bad(why)

    def close(self) -> None:
        """Close the file."""
        self._lines.close()

    def _check(self, line: bytes, *, first: bool = False) -> Fields:
        try:
            fields = self._check_first(line) if first else self.chain.follow(self.key, line)
        except BadLine as bad:
            raise self.bad(str(bad)) from None
        self._last = line
        self._rotated = fields["phase"] == "checkpoint" and fields.get("reason") == ROTATE and not first
        return fields

    def _check_first(self, line: bytes) -> Fields:
        if self.first_seq == 1:
            return self.chain.follow(self.key, line)
        if self.first_seq not in self._since:
            hint = f"if older files are kept elsewhere, pass --since {self.first_seq}"
            raise BadLine(f"it has seq {self.first_seq}, expected 1: {hint}")
        self.chain = Chain.at_checkpoint(self.key, line)
        return parse_line(line)

    def _go_on(self) -> bool:
        """Go on in the file that begins as this one ends; return whether there is one."""
        following = self._files.begun(self._last)
        if following is None:
            return False
        self._lines.close()
        self._lines, self._rotated = following, False
        self._to_come.pop(self._last, None)
        return True


class _Files:
    """Files of any logs, found by their first lines."""

    def __init__(self, paths: Iterable[Path], patience: float) -> None:
        self._paths = tuple(paths)
        self._patience = patience
        self._known: dict[bytes, Path] = {}

    def by_first_line(self) -> dict[bytes, Path]:
        """Return the paths of the current files, by their first lines. Raises BadPlace."""
        found: dict[bytes, Path] = {}
        seen = set()
        for path in itertools.chain.from_iterable(map(files_of, self._paths)):
            with closing(Lines(path, self._patience)) as lines:
                if lines.identity in seen:
                    continue
                seen.add(lines.identity)
                first = next(iter(lines), None)
            if first is None:
                raise BadPlace(Place(path, 1), "the file is empty: its lines were removed")
            if first in found:
                raise BadPlace(Place(path, 1), f"it begins with the same line as {found[first]}: name each file once")
            found[first] = path
        self._known = found
        return found

    def begun(self, first: bytes) -> Lines | None:
        """Return the lines after this one, of the file that begins with it; None if there is no such file."""
        while path := self._known.get(first) or self.by_first_line().get(first):
            lines = Lines(path, self._patience)
            if next(iter(lines), None) == first:
                return lines
            lines.close()  # the server replaced FILE since the first lines were read
            self._known = {}
        return None
