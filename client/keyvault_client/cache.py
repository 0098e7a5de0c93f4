"""`vault.cache`: secrets in memory, refreshed in the background. docs/cache.md is its how-to.

The rules of this file:

* A value is what opened under its record's key. It is served until its owner's tombstone opens, or until it is older
  than `max_age`: what a server only says takes no value away, and an older revision replaces none.
* Lookups wait for nothing, and any thread may make them. Everything else belongs to one event loop.
* Ages are counted by a clock that nobody sets, and that goes on while the machine sleeps.
"""

import asyncio
import logging
import math
import random
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from keyvault_client.cache_forks import INHERITED, note_open
from keyvault_client.cache_refresh import Outcome, Refresher
from keyvault_client.cache_store import CacheStore, Held
from keyvault_client.callbacks import Notifier, OnChange, describe
from keyvault_client.errors import (
    Busy,
    InvalidRequest,
    KeyVaultError,
    NotCached,
    NotFound,
    Unavailable,
    quote,
)
from keyvault_client.reading import Change
from keyvault_client.records import Record
from keyvault_client.refresh_log import RefreshLog, not_refreshed

MAX_REFRESH = 86_400
"""Longest time between two refreshes, in seconds."""
JITTER = 0.2
"""Share of that time which is left to chance, so that programs that start together do not stay together."""
RETRY_SECONDS = 30.0
"""Longest time, in seconds, until the refresh after one that a retry may help."""
START_SECONDS = 2.0
"""How long a start waits for the server where the file has a value for every name."""

_NOT_OPEN = "this cache is not open: use it as `with vault.cache(...) as secrets`, in async code `async with`"
_ENDED = "this cache is not open any longer: its block has ended"
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
_log = logging.getLogger(__name__)


def _uptime() -> float:
    """Return seconds that count on while the machine sleeps, whatever its clock is set to."""
    return time.clock_gettime(_CLOCK)


class Secrets(Mapping[str, bytes]):
    """The secrets of a cache by name: `secrets["prod/db"]` is the data of the record, from memory.

    Use it as an async context manager, once: `KeyVault.cache` makes it. Iteration gives the names that have a value.
    """

    def __init__(
        self,
        refresher: Refresher,
        deadline: Callable[[], float],
        refresh: float,
        max_age: float | None,
        file: str | Path | None,
        on_change: OnChange | None,
        *,
        allow_missing: bool,
    ) -> None:
        """`deadline` returns that of a refresh which begins now. Raises InvalidRequest."""
        if not 0 < refresh <= MAX_REFRESH:
            raise InvalidRequest(f"invalid refresh {refresh}: must be above 0 and at most {MAX_REFRESH} seconds")
        if max_age is not None and not 0 < max_age < math.inf:
            raise InvalidRequest(f"invalid max_age {max_age}: must be above 0 seconds")
        self._refresher = refresher
        self._deadline = deadline
        self._interval = refresh
        self._max_age = math.inf if max_age is None else max_age
        self._store = CacheStore(file, max_age) if file else None
        self._notifier = Notifier(on_change) if on_change else None
        self._allow_missing = allow_missing
        self._names = frozenset(refresher.keys)
        self._held: dict[str, Held] = {}
        self._revisions: dict[str, int] = {}
        """The proved revision of each name, that of its tombstone too."""
        self._failures: dict[str, KeyVaultError] = {}
        self._lock = asyncio.Lock()
        self._began = -math.inf
        self._changes = RefreshLog()
        self._tasks: list[asyncio.Task[None]] = []
        self._closed = _NOT_OPEN
        """Why nothing is served; "" in the block."""
        self._entered = False

    def __getitem__(self, name: str) -> bytes:
        held = self._held.get(name)
        if held is None or (self._max_age < math.inf and _uptime() - held.confirmed > self._max_age):
            raise self._not_cached(name)
        return held.record.plaintext

    def __iter__(self) -> Iterator[str]:
        return iter([name for name in list(self._held) if name in self])

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return f"<Secrets: {len(self)} of {len(self._names)} names have a value>"

    def record(self, name: str) -> Record:
        """Return the whole record. Raises NotCached."""
        held = self._held.get(name)
        if held is None or _uptime() - held.confirmed > self._max_age:
            raise self._not_cached(name)
        return held.record

    def age(self, name: str) -> float:
        """Return the seconds since the server last confirmed this value, also one beyond `max_age`. Raises NotCached.

        They count from the request that was answered, and go on while the machine sleeps.
        """
        held = self._held.get(name)
        if held is None:
            raise self._not_cached(name)
        return _uptime() - held.confirmed

    def failure(self, name: str) -> KeyVaultError | None:
        """Return why the last refresh of this name failed; None if it did not. Raises NotCached for another name."""
        if name not in self._names:
            raise self._not_cached(name)
        return self._failures.get(name)

    async def refresh(self) -> None:
        """Ask the server now; what it says is in memory when this returns.

        Raises NotRefreshed, which names what failed; the others are refreshed then, and no value is lost.
        """
        if self._closed:
            raise InvalidRequest(self._closed)
        await self._refresh_since(_uptime())
        if self._failures:
            raise not_refreshed(self._failures, len(self._names))

    async def __aenter__(self) -> Self:
        if self._closed is not _NOT_OPEN:
            raise InvalidRequest("a cache is used once: call vault.cache again")
        self._closed = ""
        note_open(self)
        try:
            await self._load()
            first = self._start(self._refresh_since(_uptime()))
            await asyncio.wait([first], timeout=START_SECONDS if len(self) == len(self._names) else None)
            if first.done():
                first.result()
            self._refuse_missing()
            self._entered = True
            self._changes.note(self._failures, self._held)
            self._start(self._keep_fresh(first))
            if self._notifier:
                self._start(self._notifier.run())
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()

    async def _load(self) -> None:
        """Open what the file has of these names."""
        if self._store is None:
            return
        sealed, deadline = await self._store.load(), self._deadline()  # one for all: it bounds what new_key takes
        unusable: dict[str, KeyVaultError] = {}
        for name in [name for name in self._refresher.keys if name in sealed]:
            record = await self._refresher.open_sealed(sealed[name], deadline)
            if isinstance(record, KeyVaultError):
                unusable[name] = record
                continue
            self._revisions[name] = record.revision
            self._held[name] = Held(record, sealed[name].envelope, _uptime() - sealed[name].age())
        self._store.note_loaded(self._held, unusable)

    def _refuse_missing(self) -> None:
        """Raise NotRefreshed if a name has no value, and that is not allowed."""
        missing = [name for name in self._refresher.keys if name not in self]
        if missing and not self._allow_missing:
            raise not_refreshed(
                {name: self._failures.get(name) or self._not_cached(name) for name in missing}, len(self._names)
            )

    async def _keep_fresh(self, first: "asyncio.Task[None]") -> None:
        """Refresh until this is cancelled, after the refresh of the start."""
        refresh: Coroutine[Any, Any, None] | asyncio.Task[None] = first
        while True:
            try:
                await refresh
            except Exception as error:  # only our own bug raises here, and it must not stop the refreshes
                _log.error("unexpected failure of a refresh: %s", describe(error))
            await asyncio.sleep(self._wait())
            refresh = self._refresh_since(_uptime())

    def _wait(self) -> float:
        may_help = any(isinstance(error, Unavailable | Busy) for error in self._failures.values())
        longest = min(self._interval, RETRY_SECONDS) if may_help else self._interval
        return longest * (1 - JITTER * random.random())  # noqa: S311 - spreads load, hides nothing

    async def _refresh_since(self, asked: float) -> None:
        """Refresh, unless one that began after `asked` did it while this one waited for its turn."""
        async with self._lock:
            if self._began > asked:
                return
            began = _uptime()
            # What was confirmed longest ago comes first: if there is no time for all, it is not always the same names.
            names = sorted(self._refresher.keys, key=self._confirmed)
            outcomes = await self._refresher.refresh(names, self._revisions, self._deadline())
            for name, outcome in outcomes.items():
                self._apply(name, outcome, began)
            self._began = began
            if self._entered:  # else the start says it, by an exception or by a line
                self._changes.note(self._failures, self._held)
            if self._store:
                await self._store.save(self._held, self._refresher.keys, _uptime())

    def _confirmed(self, name: str) -> float:
        held = self._held.get(name)
        return -math.inf if held is None else held.confirmed

    def _apply(self, name: str, outcome: Outcome, began: float) -> None:
        """Take over what a refresh, which began at this time, found of a name."""
        if isinstance(outcome, KeyVaultError):
            self._failures[name] = outcome
            return
        held = self._held.get(name)
        if outcome is not None:
            self._revisions[name] = outcome.revision
            held = self._changed(name, held, outcome)
        if held is None:
            self._held.pop(name, None)
            self._failures[name] = NotFound(f"deleted at revision {self._revisions[name]}")
            return
        self._held[name] = held._replace(confirmed=began)
        self._failures.pop(name, None)

    def _changed(self, name: str, held: Held | None, change: Change) -> Held | None:
        """Return the new value, None for a deleted record; say so to `on_change`."""
        if change.record is None:
            return None
        is_new = held is None or held.record.revision != change.revision
        if is_new and self._notifier and self._entered:
            self._notifier.add(name, change.record)
        return Held(change.record, change.envelope if self._store else b"", 0.0)

    def _not_cached(self, name: str) -> NotCached:
        """Return why there is no value of this name."""
        if name not in self._names:
            return NotCached(f"{quote(str(name))} is not a name of this cache")
        if self._closed:
            return NotCached(f"no value of {name}: {self._closed}")
        failure = self._failures.get(name)
        why = f": {failure}" if failure else ""
        held = self._held.get(name)
        if held is None:
            error = NotCached(f"no value of {name}{why}")
        else:
            age = _uptime() - held.confirmed
            error = NotCached(f"{name} was confirmed {age:.0f} s ago, more than max_age={self._max_age:g}{why}")
        error.__cause__ = failure
        return error

    def _start(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(work)
        self._tasks.append(task)
        return task

    def _end(self, why: str) -> None:
        """Serve nothing from now on."""
        self._closed = why
        self._held = {}

    async def _close(self) -> None:
        if self._closed is INHERITED:  # the tasks are the parent's
            return
        self._end(_ENDED)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
