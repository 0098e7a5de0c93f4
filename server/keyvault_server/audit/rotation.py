"""The files of one log: FILE, and older files, kept as FILE.<seq of the first line>.

A full file ends with a checkpoint, and the next file begins with the same line, byte by byte. So each file shows which
one comes before it, and a start finds the last checkpoint in FILE, however new FILE is.

The rule of this file: FILE exists at every moment, and after a crash between any two steps `rotate` completes the rest.
"""

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from keyvault_api.files import sync_directory
from keyvault_server.audit.line import MAX_LINE, parse_line
from keyvault_server.disk.files import replace_durably

_ARCHIVE_NAME = re.compile(r"(.+)\.[0-9]{12,}")


def rotate(path: Path, checkpoint: bytes) -> None:
    """Keep FILE, which ends with this checkpoint, under another name, and begin a new FILE with the checkpoint.

    1. Write the new file under a temporary name, with the mode of FILE.
    2. Give FILE a second name, the one under which it is kept.
    3. Rename the new file to FILE.

    Raises OSError, and BadLine for a file that does not begin as a log does; FILE may then be the old or the new one.
    """
    # 1.
    new = path.with_name(f"{path.name}.next")
    replace_durably(new, checkpoint)
    new.chmod(stat.S_IMODE(path.stat().st_mode))
    # 2. The second name exists already if a crash came between steps 2 and 3.
    archive = _archive_path(path)
    if not (archive.exists() and archive.samefile(path)):
        os.link(path, archive)
    sync_directory(path.parent)
    # 3.
    new.replace(path)
    sync_directory(path.parent)


def files_of(path: Path) -> Iterator[Path]:
    """Return FILE, then its older files; these are looked for last, so that a rotation in between hides none."""
    yield path
    for file in sorted(path.parent.iterdir()):
        if (archive := _ARCHIVE_NAME.fullmatch(file.name)) and archive[1] == path.name:
            yield file


def live_name(path: Path) -> Path:
    """Return the path of FILE, for any file of the log."""
    archive = _ARCHIVE_NAME.fullmatch(path.name)
    return path.with_name(archive[1]) if archive else path


def _archive_path(path: Path) -> Path:
    with path.open("rb") as file:
        first = parse_line(file.readline(MAX_LINE))["seq"]
    return path.with_name(f"{path.name}.{first:012}")
