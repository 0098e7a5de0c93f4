"""`Watched`: the last good reading of some files, read again when they change.

The rule of this file: a running server never loses what it has. A change that cannot be read keeps the last good
value, is told once to the log (names and a sentence, never content) and to whoever counts, and is tried again.

These files say who may what, so one that others may write is not read: it belongs to us or to root, and nobody else
writes it but a group of ours. That lets in what a umask of 002 makes where each user has a group alone, and files on a
pod's writable volume, which Kubernetes gives to the pod's fsGroup as 0660; on Secrets and ConfigMaps it adds 0440 at
most. Their folders are not looked at: Kubernetes mounts ConfigMaps on ones of mode 0777, read-only.
"""

import asyncio
import contextlib
import logging
import os
import stat
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Generic, TypeVar

from keyvault_server.core.errors import Refused

LOOK_SECONDS = 1.0
"""The files are looked at no more often than that."""
RETRY_SECONDS = 5.0
"""A bad reading is tried again after that, though the files look the same: time or another file may have mended it."""
MAX_FILE = 1024 * 1024
"""Bytes that `read_file` takes unless told otherwise."""

_READINGS = 3  # of files that change while they are read
_Mark = tuple[int, ...] | None
T = TypeVar("T")
OnReading = Callable[[str, bool], None]
"""Is told the name of what was read and whether that went well; on any thread."""

_log = logging.getLogger(__name__)


class Unreadable(Refused):
    """A file cannot be read; the message names it and says why."""


def read_file(path: Path, limit: int = MAX_FILE) -> bytes:
    """A whole file of at most `limit` bytes that nobody else may write. Raises Unreadable."""
    try:
        with path.open("rb") as file:
            _refuse_if_others_can_write(path, os.fstat(file.fileno()))
            content = file.read(limit + 1)
    except OSError as error:
        raise Unreadable(f"{path}: {error.strerror}") from None
    if len(content) > limit:
        raise Unreadable(f"{path} has more than {limit} bytes: is it the right file?")
    return content


def _refuse_if_others_can_write(path: Path, status: os.stat_result) -> None:
    own_group = status.st_gid == os.getegid() or status.st_gid in os.getgroups()
    if status.st_mode & (stat.S_IWOTH if own_group else stat.S_IWOTH | stat.S_IWGRP):
        mode = stat.S_IMODE(status.st_mode)
        raise Unreadable(f"{path} has mode {mode:04o}, others may write it: see that nobody has, then `chmod go-w` it")
    if status.st_uid not in (0, os.geteuid()):
        raise Unreadable(f"{path} belongs to another user (uid {status.st_uid}), who may write it: `chown` it to root")


def ignore_readings(name: str, good: bool) -> None:
    """The OnReading of those who do not count."""


class Readings:
    """What became of the readings of one thing: each is counted, and a change for the worse or better is logged."""

    def __init__(self, name: str, sources: Iterable[str], on_reading: OnReading) -> None:
        self._name = name
        self._sources = list(sources)
        self._on_reading = on_reading
        self._told: object = None
        self.failed_since: float | None = None
        """Seconds since 1970 of the first bad reading after the last good one; None if the last one was good."""

    def good(self) -> None:
        """A reading went well."""
        if self._told is not None:
            _log.info("read again", extra={"reading": self._name, "sources": self._sources})
        self._told = self.failed_since = None
        self._on_reading(self._name, True)

    def bad(self, error: Exception, state: object = "") -> None:
        """A reading failed; the same error in the same state is logged once."""
        cause = _sentence(error)
        if self._told != (cause, state):
            self._told = (cause, state)
            told = {"reading": self._name, "sources": self._sources, "cause": cause}
            _log.error("cannot be read, what was read before stays in use", extra=told)
        if self.failed_since is None:
            self.failed_since = time.time()
        self._on_reading(self._name, False)


class Watched(Generic[T]):
    """What `read` made of some files, when it last could. Safe to use from any thread.

    `read` takes nothing, returns the value and raises Refused, whose sentence holds no content of the files. It is
    called again when a file is changed, replaced or comes to be another through a symbolic link, as Kubernetes does it.
    """

    def __init__(
        self,
        name: str,
        paths: Iterable[Path],
        read: Callable[[], T],
        on_reading: OnReading = ignore_readings,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Reads once. Raises what `read` raises."""
        self._paths = tuple(paths)
        self._read = read
        self._clock = clock
        self._readings = Readings(name, map(str, self._paths), on_reading)
        self._looking = threading.Lock()
        self._marks: tuple[_Mark, ...] = ()
        self._next_look = self._next_try = clock() + LOOK_SECONDS
        self._last = self._settled()
        self._readings.good()

    @property
    def last(self) -> T:
        """The last good value, without a look at the files: for those who must not wait, beside `watching`."""
        return self._last

    @property
    def failed_since(self) -> float | None:
        """Since when (seconds since 1970) the files could not be read; None if they could."""
        return self._readings.failed_since

    def get(self) -> T:
        """The last good value, after a look at the files if the last look was LOOK_SECONDS ago."""
        if self._clock() >= self._next_look and self._looking.acquire(blocking=False):
            try:
                self._look()
            finally:
                self._looking.release()
        return self._last

    @contextlib.asynccontextmanager
    async def watching(self, interval: float = LOOK_SECONDS) -> AsyncIterator[None]:
        """Looks every `interval` seconds while the body runs, on a thread: a slow disk does not hold the loop."""
        task = asyncio.create_task(self._watch(interval))
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _watch(self, interval: float) -> None:
        while True:
            await asyncio.sleep(interval)
            await asyncio.to_thread(self.get)

    def _look(self) -> None:
        now = self._clock()
        self._next_look = now + LOOK_SECONDS
        bad = self._readings.failed_since is not None
        if self._marks_now() == self._marks and not (bad and now >= self._next_try):
            return
        self._next_try = now + RETRY_SECONDS
        try:
            self._last = self._settled()
        except Exception as error:  # whatever is wrong with the files or the reader, the last good value still serves
            self._readings.bad(error, self._marks)
        else:
            self._readings.good()

    def _settled(self) -> T:
        """Reads files that were the same before and after: they may be replaced one by one, and meanwhile."""
        for _ in range(_READINGS):
            self._marks = self._marks_now()
            failure: Exception | None = None
            try:
                value = self._read()
            except Exception as error:  # raised below, unless the files changed meanwhile
                failure = error
            if self._marks_now() == self._marks:
                break
        if failure is not None:
            raise failure
        return value

    def _marks_now(self) -> tuple[_Mark, ...]:
        return tuple(map(_mark, self._paths))


def _mark(path: Path) -> _Mark:
    """What tells a file from another and from itself before a change; None if there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _sentence(error: Exception) -> str:
    """A Refused's own; of another error, which may hold content, its type."""
    return str(error) if isinstance(error, Refused) else type(error).__name__
