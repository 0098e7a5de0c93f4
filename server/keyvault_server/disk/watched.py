"""`Watched`: the last good reading of some files, which are reloaded when they change.

The rules of this file:

- A running server never loses what it has. If a change cannot be read, the last good value stays in use, the log says
  so once (names and a sentence, never content), the meter counts it, and the reading is retried.
- A changed file is read once two looks found it unchanged: part of a policy may parse, and allow what the rest denies.
  A writer that pauses for longer than that is not noticed; a file that is renamed over the old one is always whole.
"""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from keyvault_api.files import FileStamp, stamp_of
from keyvault_server.core.background import in_background
from keyvault_server.core.errors import OperatorError
from keyvault_server.core.meter import Meter
from keyvault_server.disk.permissions import refuse_unsafe

LOOK_SECONDS = 1.0
"""Shortest time between two looks at the files, in seconds. A changed file is read after as long without a change."""
UNSETTLED_SECONDS = 30.0
"""Time after which files that are changed again and again are reported as a failed reading."""
RETRY_SECONDS = 5.0
"""Time after which a failed reading is retried though the files look the same: another file may have been fixed."""
MAX_FILE = 1024 * 1024
"""Bytes that `read_file` accepts by default."""

_ATTEMPTS = 3  # to read files that change while they are read, at the start
T = TypeVar("T")

_log = logging.getLogger(__name__)


class Unreadable(OperatorError):
    """A file cannot be read; the message names it and says why."""


def read_file(path: Path, limit: int = MAX_FILE, *, secret: bool = False, group_reads: bool = False) -> bytes:
    """Return the whole content of a file of at most `limit` bytes.

    Raises Unreadable; UnsafeFile for a file that others may write, or, if `secret`, read (see permissions.py).
    """
    try:
        with path.open("rb") as file:
            refuse_unsafe(path, file.fileno(), secret=secret, group_reads=group_reads)
            content = file.read(limit + 1)
    except OSError as error:
        raise Unreadable(f"{path}: {error.strerror}") from None
    if len(content) > limit:
        raise Unreadable(f"{path} has more than {limit} bytes: is it the right file?")
    return content


class Unsettled(OperatorError):
    """The files were changed again and again; the message says what to do."""


class Readings:
    """The outcomes of reading one source: each is counted, and a change for the worse or better is logged."""

    def __init__(self, name: str, sources: Iterable[str], meter: Meter) -> None:
        self._name = name
        self._sources = list(sources)
        self._meter = meter
        self._logged: object = None
        self.failed_since: float | None = None
        """Seconds since 1970 of the first failure after the last success; None if the last reading succeeded."""

    def log_next(self) -> None:
        """Log the next outcome, whatever it is: somebody asked for the reading."""
        self._logged = ("asked for", None)

    def succeed(self) -> None:
        """Count a reading that succeeded."""
        if self._logged is not None:
            _log.info("reloaded", extra={"reading": self._name, "sources": self._sources})
        self._logged = self.failed_since = None
        self._meter.count_reading(self._name, True)

    def fail(self, error: Exception, state: object = "") -> None:
        """Count a reading that failed; the same error in the same state is logged once."""
        cause = _cause(error)
        if self._logged != (cause, state):
            self._logged = (cause, state)
            details = {"reading": self._name, "sources": self._sources, "cause": cause}
            _log.error("reload failed; keeping the previous version", extra=details)
        if self.failed_since is None:
            self.failed_since = time.time()
        self._meter.count_reading(self._name, False)


class Reloadable(Protocol):
    """What an operator can ask to reload."""

    async def reload(self) -> None:
        """Reload now, and log the outcome. Never raises: what was read last stays in use."""


class Watched(Generic[T]):
    """What `read` made of some files when it last succeeded. Safe to use from any thread.

    `read` takes nothing, returns the value, and raises OperatorError with a sentence that holds no content of the
    files. It is called again when a file is changed or replaced, or a symbolic link leads to another one, as Kubernetes
    does it.
    """

    def __init__(
        self,
        name: str,
        paths: Iterable[Path],
        read: Callable[[], T],
        meter: Meter,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Read once. Raises what `read` raises."""
        self._paths = tuple(paths)
        self._read = read
        self._clock = clock
        self._sleep = sleep
        self._readings = Readings(name, map(str, self._paths), meter)
        self._looking = threading.Lock()
        self._stamps: tuple[FileStamp, ...] = ()
        """Of the files as they were last read."""
        self._seen: tuple[FileStamp, ...] = ()
        """Of the files at the last look."""
        self._last = self._read_first()
        self._settles_at = self._changed_at = clock()
        self._next_look = self._next_retry = self._settles_at + LOOK_SECONDS
        self._readings.succeed()

    @property
    def last(self) -> T:
        """The last good value, without a look at the files: for callers that must not wait, while `watching` runs."""
        return self._last

    @property
    def failed_since(self) -> float | None:
        """Seconds since 1970 of the first failed reading after the last good one; None if the last one was good."""
        return self._readings.failed_since

    def get(self) -> T:
        """Return the last good value, after a look at the files if the last look was LOOK_SECONDS ago."""
        if self._clock() >= self._next_look and self._looking.acquire(blocking=False):
            try:
                self._look()
            finally:
                self._looking.release()
        return self._last

    @contextlib.asynccontextmanager
    async def watching(self, interval: float = LOOK_SECONDS) -> AsyncIterator[None]:
        """Look every `interval` seconds while the body runs, on a thread: a slow disk does not hold the loop."""
        async with in_background(self._watch(interval)):
            yield

    async def reload(self) -> None:
        """Read on a thread, whether the files look changed or not, and log the outcome.

        Waits until changed files have settled: who asks may not be the one who is writing them.
        """
        while not await asyncio.to_thread(self._reload):
            await self._sleep(LOOK_SECONDS)

    async def _watch(self, interval: float) -> None:
        while True:
            await asyncio.sleep(interval)
            await asyncio.to_thread(self.get)

    def _look(self) -> None:
        now = self._clock()
        self._next_look = now + LOOK_SECONDS
        if not self._have_settled(now):
            if self._has_changed_for_long(now):
                self._fail_unsettled()
            return
        failed = self._readings.failed_since is not None
        if self._seen != self._stamps or (failed and now >= self._next_retry):
            self._read_now()

    def _reload(self) -> bool:
        """Return whether the outcome was logged; False: the files have not settled yet."""
        with self._looking:
            now = self._clock()
            if self._have_settled(now):
                self._readings.log_next()
                return self._read_now()
            if not self._has_changed_for_long(now):
                return False
            self._readings.log_next()
            self._fail_unsettled()
            return True

    def _have_settled(self, now: float) -> bool:
        """Look at the files; return whether they have been unchanged for LOOK_SECONDS."""
        before, self._seen = self._seen, self._look_at_stamps()
        if self._seen != before:
            if before == self._stamps:
                self._changed_at = now
            self._settles_at = now + LOOK_SECONDS
        return now >= self._settles_at

    def _has_changed_for_long(self, now: float) -> bool:
        return now >= self._changed_at + UNSETTLED_SECONDS

    def _fail_unsettled(self) -> None:
        names = ", ".join(map(str, self._paths))
        advice = "write a new file and rename it over the old one"
        self._readings.fail(Unsettled(f"{names}: changed again and again for {UNSETTLED_SECONDS:g} s: {advice}"))

    def _read_now(self) -> bool:
        """Read the files as they were seen; return whether they stayed so, else their content is not used."""
        self._next_retry = self._clock() + RETRY_SECONDS
        stamps = self._seen
        failure: Exception | None = None
        try:
            value = self._read()
        except Exception as error:  # whatever is wrong with the files or the reader, the last good value still serves
            failure = error
        if not self._have_settled(self._clock()):
            return False
        self._stamps = stamps
        if failure is not None:
            self._readings.fail(failure, stamps)
        else:
            self._last = value
            self._readings.succeed()
        return True

    def _read_first(self) -> T:
        """Read files whose stamps are the same before and after: several may be replaced one after another."""
        for _ in range(_ATTEMPTS):
            self._stamps = self._seen = self._look_at_stamps()
            failure: Exception | None = None
            try:
                value = self._read()
            except Exception as error:  # raised below, unless the files changed while they were read
                failure = error
            if self._look_at_stamps() == self._stamps:
                break
        if failure is not None:
            raise failure
        return value

    def _look_at_stamps(self) -> tuple[FileStamp, ...]:
        return tuple(map(stamp_of, self._paths))


def _cause(error: Exception) -> str:
    """Return an OperatorError's own sentence; of another error, which may hold content, its type."""
    return str(error) if isinstance(error, OperatorError) else type(error).__name__
