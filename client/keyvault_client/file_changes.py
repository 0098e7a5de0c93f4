"""Changes of files on the caller's side: TLS files and tokens that were written or replaced since they were read.

The rule of this file: a changed file counts once it has been unchanged for LOOK_SECONDS. The first half of a token is a
token too, and the first half of a bundle lacks CAs. A writer that pauses for longer than that is not noticed; a file
that is renamed over the old one is always whole.
"""

import logging
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from keyvault_api.files import FileStamp, stamp_of

LOOK_SECONDS = 1.0
"""Least seconds between two looks at the files. A changed file counts after as long without a change."""
UNSETTLED_SECONDS = 30.0
"""Seconds after which files that are changed again and again are reported."""

_log = logging.getLogger(__name__)


class FileChanges:
    """Watches files while it is asked. Replaced targets of symbolic links, as Kubernetes mounts secrets, count too."""

    def __init__(
        self,
        paths: Iterable[Path],
        clock: Callable[[], float] = time.monotonic,
        file_clock: Callable[[], float] = time.time,
    ) -> None:
        """`file_clock` is the one that the times of files are compared with, in seconds since 1970."""
        self._paths = tuple(paths)
        self._clock = clock
        self._file_clock = file_clock
        self._used = self._seen = self._look()
        self._forgotten = self._logged = False
        self._settles_at = self._changed_at = clock()
        self._next_look = self._settles_at + LOOK_SECONDS

    def detected(self) -> bool:
        """Return True once after each change. The files are looked at only if the last look was LOOK_SECONDS ago.

        Read the files after this call, and use what was read if `unchanged` is True then.
        """
        now = self._clock()
        if not self._paths or now < self._next_look:
            return False
        self._next_look = now + LOOK_SECONDS
        if not self._have_settled(now):
            self._log_unsettled_once(now)
            return False
        detected = self._forgotten or self._seen != self._used
        self._used, self._forgotten, self._logged = self._seen, False, False
        return detected

    def unchanged(self) -> bool:
        """Return whether the files are still those that `detected` saw. If not, it detects the change later."""
        return self._look() == self._used

    def forget(self) -> None:
        """Let the next look detect a change again, because what was read this time could not be used."""
        self._forgotten = True

    def _have_settled(self, now: float) -> bool:
        """Look; return whether the files have been unchanged for LOOK_SECONDS, by two looks or by their own times.

        Their own times spare a program that calls once an hour a call with its old token.
        """
        before, self._seen = self._seen, self._look()
        if self._seen != before:
            if before == self._used:
                self._changed_at = now
            self._settles_at = now + LOOK_SECONDS
        return now >= self._settles_at or all(map(self._has_settled, self._seen, self._used))

    def _has_settled(self, seen: FileStamp, used: FileStamp) -> bool:
        return seen == used or (seen is not None and self._file_clock() >= seen[-1] / 1e9 + LOOK_SECONDS)

    def _log_unsettled_once(self, now: float) -> None:
        if self._logged or now < self._changed_at + UNSETTLED_SECONDS:
            return
        self._logged = True
        names = ", ".join(map(str, self._paths))
        _log.error(
            "reload failed: %s: changed again and again for %g s: write a new file and rename it over the old one; "
            "keeping the previous version",
            names,
            UNSETTLED_SECONDS,
        )

    def _look(self) -> tuple[FileStamp, ...]:
        return tuple(map(stamp_of, self._paths))
