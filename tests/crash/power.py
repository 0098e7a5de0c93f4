"""What a power cut leaves of a folder: replays a recording of a process (recorder.c) up to any moment.

The model is a strict disk. The bytes of a file are safe once the file was synced after they were written; a name, once
its folder was synced after it was made, renamed or removed. What a failed sync was to make safe never is, whatever is
synced later: the kernel has forgotten that it was to be written. At the cut, of what is not safe either nothing is left
(`torn` is None), or any part: each 512-byte sector, cut and name by the toss of a coin.
"""

import random
import struct
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from tests.support.tools import toolchain

SECTOR = 512
_HEAD = struct.Struct("<cIQQ")


class Entry(NamedTuple):
    """One thing that the process did; `end` is the recording's length after it."""

    what: str
    path: str
    offset: int
    data: bytes
    end: int


@dataclass(frozen=True, slots=True)
class Recorder:
    """The compiled recorder."""

    library: Path

    def environment(self, folder: Path, log: Path, deaf: str = "", fault: Path | None = None) -> dict[str, str]:
        """What a process needs to be recorded.

        `deaf` is a suffix of files whose fsync does nothing; `fault` a file that says what fails, while it is there.
        """
        wanted = {"LD_PRELOAD": str(self.library), "RECORD_DIR": str(folder), "RECORD_LOG": str(log)}
        return wanted | ({"RECORD_DEAF": deaf} if deaf else {}) | ({"RECORD_FAULT": str(fault)} if fault else {})


def compiled(folder: Path) -> Recorder:
    """Builds the recorder there. Skips the test if there is no C compiler."""
    toolchain("cc")
    library = folder / "recorder.so"
    source = Path(__file__).with_name("recorder.c")
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", library, source, "-ldl", "-lpthread"], check=True)
    return Recorder(library)


def recording(log: Path) -> Iterator[Entry]:
    """All whole entries of a recording."""
    data = log.read_bytes()
    at = 0
    while at + _HEAD.size <= len(data):
        what, named, offset, length = _HEAD.unpack_from(data, at)
        path_at = at + _HEAD.size
        data_at = path_at + named
        at = data_at + length
        if at <= len(data):
            yield Entry(what.decode(), data[path_at:data_at].decode(), offset, data[data_at:at], at)


@dataclass(slots=True)
class _File:
    """A file's safe bytes, and what was done to it since it was synced."""

    safe: bytearray = field(default_factory=bytearray)
    pending: list[Entry] = field(default_factory=list)
    forgotten: list[Entry] = field(default_factory=list)

    def sync(self) -> None:
        for entry in self.pending:
            _apply(self.safe, entry)
        self.pending = []

    def fail(self) -> None:
        self.forgotten += self.pending
        self.pending = []

    def as_read(self) -> bytes:
        """What the kernel shows of it. Needs that no sync failed."""
        content = bytearray(self.safe)
        for entry in self.pending:
            _apply(content, entry)
        return bytes(content)

    def after_cut(self, torn: random.Random | None) -> bytes:
        content = bytearray(self.safe)
        for entry in self.forgotten + self.pending if torn else []:
            for part in _sectors(entry):
                if torn and torn.random() < 0.5:
                    _apply(content, part)
        return bytes(content)


class Disk:
    """One folder on a strict disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)
        self._names: dict[str, _File] = {}
        self._safe_names: dict[str, _File] = {}

    def apply(self, entry: Entry) -> None:
        """The process does the next thing."""
        names, path = self._names, entry.path
        if entry.what == "S" and path == self._folder:
            self._safe_names = dict(names)
        elif entry.what == "S":
            names[path].sync()
        elif entry.what == "F":
            if path in names:  # else the folder
                names[path].fail()
        elif entry.what == "C":
            names[path] = _File()
        elif entry.what == "R":
            names[entry.data.decode()] = names.pop(path)
        elif entry.what == "L":
            names[entry.data.decode()] = names[path]
        elif entry.what == "U":
            names.pop(path, None)
        else:
            names[path].pending.append(entry)

    def kill(self, target: Path) -> None:
        """Writes what the process would leave if it was killed now into a new folder; the disk itself goes on."""
        _write(target, {path: (file, file.as_read()) for path, file in self._names.items()})

    def cut(self, target: Path, torn: random.Random | None) -> None:
        """Writes what a power cut now would leave into a new folder; the disk itself goes on."""
        names = dict(self._safe_names)
        if torn:
            names |= {path: file for path, file in self._names.items() if torn.random() < 0.5}
        # a memory map (-shm): nobody relies on what the disk has of it
        _write(
            target, {path: (file, file.after_cut(torn)) for path, file in names.items() if not path.endswith("-shm")}
        )


def _write(target: Path, names: Mapping[str, tuple[_File, bytes]]) -> None:
    target.mkdir(mode=0o700)
    made: dict[int, Path] = {}
    for name, (file, content) in names.items():
        path = target / Path(name).name
        if id(file) in made:
            path.hardlink_to(made[id(file)])
            continue
        made[id(file)] = path
        path.touch(mode=0o600)
        path.write_bytes(content)


def _apply(content: bytearray, entry: Entry) -> None:
    """A write or a cut; a gap before it reads as zeros."""
    end = entry.offset + len(entry.data)
    if entry.what == "T":
        del content[entry.offset :]
        content.extend(bytes(entry.offset - len(content)))
        return
    content.extend(bytes(max(0, end - len(content))))
    content[entry.offset : end] = entry.data


def _sectors(entry: Entry) -> Iterator[Entry]:
    """A write in the pieces that a disk keeps or loses."""
    if entry.what == "T":
        yield entry
        return
    at = 0
    while at < len(entry.data):
        size = SECTOR - (entry.offset + at) % SECTOR
        yield entry._replace(offset=entry.offset + at, data=entry.data[at : at + size])
        at += size
