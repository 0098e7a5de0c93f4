"""Notices that files on the caller's side, TLS files and tokens, were changed or replaced since they were read."""

import time
from collections.abc import Callable, Iterable
from pathlib import Path

LOOK_SECONDS = 1.0
"""The files are looked at no more often than that."""

_Mark = tuple[int, ...] | None


class Changes:
    """Looks at some files now and then. What follows a symbolic link, as Kubernetes mounts secrets, is seen too."""

    def __init__(self, paths: Iterable[Path], clock: Callable[[], float] = time.monotonic) -> None:
        self._paths = tuple(paths)
        self._clock = clock
        self._next_look = clock() + LOOK_SECONDS
        self._marks = self._look()

    def seen(self) -> bool:
        """True once after each change; looks only if the last look was LOOK_SECONDS ago.

        Read the files after it was said: a change while they are read is then said again.
        """
        now = self._clock()
        if not self._paths or now < self._next_look:
            return False
        self._next_look = now + LOOK_SECONDS
        before, self._marks = self._marks, self._look()
        return before != self._marks

    def _look(self) -> tuple[_Mark, ...]:
        return tuple(map(_mark, self._paths))


def _mark(path: Path) -> _Mark:
    """What tells a file from another and from itself before a change; None if there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
