"""Changes of files on the caller's side: TLS files and tokens that were written or replaced since they were read."""

import time
from collections.abc import Callable, Iterable
from pathlib import Path

from keyvault_api.files import FileStamp, stamp_of

LOOK_SECONDS = 1.0
"""Least seconds between two looks at the files."""


class FileChanges:
    """Watches files while it is asked. Replaced targets of symbolic links, as Kubernetes mounts secrets, count too."""

    def __init__(self, paths: Iterable[Path], clock: Callable[[], float] = time.monotonic) -> None:
        self._paths = tuple(paths)
        self._clock = clock
        self._next_look = clock() + LOOK_SECONDS
        self._stamps = self._look()

    def detected(self) -> bool:
        """Return True once after each change. The files are looked at only if the last look was LOOK_SECONDS ago.

        Read the files after this call: a change while they are read is then detected by the next look.
        """
        now = self._clock()
        if not self._paths or now < self._next_look:
            return False
        self._next_look = now + LOOK_SECONDS
        before, self._stamps = self._stamps, self._look()
        return before != self._stamps

    def forget(self) -> None:
        """Let the next look detect a change again, because what was read this time could not be used."""
        self._stamps = ()

    def _look(self) -> tuple[FileStamp, ...]:
        return tuple(map(stamp_of, self._paths))
