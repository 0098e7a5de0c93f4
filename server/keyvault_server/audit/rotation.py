"""The files of one log: FILE, and what it was before, kept as FILE.<seq of its first line>.

A file that is full ends with a checkpoint, and the next one begins with the same line, byte by byte. So each tells what
comes before it, and a start finds the last checkpoint in FILE, however young FILE is.

The rule of this file: FILE is there at every moment, and a crash between any two steps leaves what `rotate` completes.
"""

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from keyvault_server.audit.line import MAX_LINE, parsed
from keyvault_server.disk.files import replace_durably, sync_directory

_ARCHIVE = re.compile(r"(.+)\.[0-9]{12,}")


def rotate(path: Path, checkpoint: bytes) -> None:
    """Keeps FILE, which ends with this checkpoint, under its other name; a new FILE begins with it.

    Raises OSError, and BadLine for a file that does not begin as a log does; whether FILE is another then is unknown.
    """
    fresh = path.with_name(f"{path.name}.next")
    replace_durably(fresh, checkpoint)
    fresh.chmod(stat.S_IMODE(path.stat().st_mode))
    archive = _archive(path)
    if not (archive.exists() and archive.samefile(path)):  # else a crash came between this step and the last one
        os.link(path, archive)
    sync_directory(path.parent)
    fresh.replace(path)
    sync_directory(path.parent)


def files_of(path: Path) -> Iterator[Path]:
    """FILE, then what it was before, which is looked for later: so one that is rotated meanwhile is not missed."""
    yield path
    for file in sorted(path.parent.iterdir()):
        if (archive := _ARCHIVE.fullmatch(file.name)) and archive[1] == path.name:
            yield file


def live_name(path: Path) -> Path:
    """FILE, for any of its files."""
    archive = _ARCHIVE.fullmatch(path.name)
    return path.with_name(archive[1]) if archive else path


def _archive(path: Path) -> Path:
    with path.open("rb") as file:
        first = parsed(file.readline(MAX_LINE))["seq"]
    return path.with_name(f"{path.name}.{first:012}")
