"""The source of the issuer's key set: a file or a URL, reloaded in the background.

The rules of this file:

- No call waits: `current` is in memory.
- If a reload fails (late, malformed, too large), the last good set is kept. The failure is logged once and counted.
- A set from a URL that was not confirmed for `Timing.oldest` may have been revoked: then tokens are rejected.
- `key_fetch` says what a URL must be, and how it is asked.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from keyvault_server.access.key_fetch import MAX_KEY_SET, KeyFetch, KeySetUrl
from keyvault_server.access.key_set import BadKeySet, KeySet, parse_key_set
from keyvault_server.core.background import in_background
from keyvault_server.core.errors import TokenKeysTooOld
from keyvault_server.core.meter import Meter
from keyvault_server.disk.watched import Readings, Watched, read_file

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Timing:
    """When a URL is fetched, in seconds."""

    refresh: float = 300.0
    """Time between two fetches."""
    shortest: float = 10.0
    """Shortest time between two fetches: after a failure, or when a token names an unknown key."""
    fetch: float = 5.0
    """Timeout of one fetch, from name resolution to the last byte."""
    oldest: float = 86_400.0
    """Age at which a set is no longer used."""


def timing_within(oldest: float) -> Timing:
    """Return the default timing, shortened so that a set is fetched several times before it is `oldest` seconds old."""
    default = Timing()
    return Timing(min(default.refresh, oldest / 4), min(default.shortest, oldest / 4), default.fetch, oldest)


class KeySource(Protocol):
    """The issuer's keys, in memory."""

    @property
    def current(self) -> KeySet:
        """The last good set; a new object after each reload. Raises TokenKeysTooOld."""

    @property
    def age(self) -> float:
        """Seconds since the last good fetch of a URL; 0 for a file, which is watched."""

    def request_reload(self) -> None:
        """Ask for a newer set soon, since a token named a key that this one does not have."""

    async def reload(self) -> None:
        """See Reloadable."""


@contextlib.asynccontextmanager
async def open_key_source(
    location: str,
    *,
    meter: Meter,
    ca: Path | None = None,
    token_file: Path | None = None,
    timing: Timing = Timing(),
) -> AsyncIterator[KeySource]:
    """Keep the issuer's keys fresh while the body runs; the first set is loaded before. Raises OperatorError.

    `location` is a file or a URL. An https server is verified against `ca` (PEM), or else the system's roots; http is
    for this machine only. Each fetch of a URL sends the token in `token_file`, if there is one. `meter` counts the
    readings of "token keys".
    """
    if "://" not in location:
        file = _FileKeys(Path(location), meter)
        async with file.files.watching():
            yield file
        return
    fetch = KeyFetch(KeySetUrl(location, ca, token_file), meter)
    url = _UrlKeys(fetch, meter, timing)
    await url.fetch_first()
    async with fetch.files.watching() if fetch.files else contextlib.nullcontext(), in_background(url.keep_fresh()):
        yield url


class _FileKeys:
    """A KeySource that watches a file."""

    age = 0.0

    def __init__(self, path: Path, meter: Meter) -> None:
        self.files = Watched("token keys", [path], lambda: _read_key_set(path), meter)

    @property
    def current(self) -> KeySet:
        return self.files.last

    def request_reload(self) -> None:
        """Do nothing: the file is watched."""

    async def reload(self) -> None:
        await self.files.reload()


def _read_key_set(path: Path) -> KeySet:
    try:
        return parse_key_set(read_file(path, MAX_KEY_SET))
    except BadKeySet as error:
        raise BadKeySet(f"{path}: {error}") from None


class _UrlKeys:
    """A KeySource that fetches a URL."""

    def __init__(self, source: KeyFetch, meter: Meter, timing: Timing) -> None:
        self._source = source
        self._shown = source.shown
        self._timing = timing
        self._readings = Readings("token keys", [self._shown], meter)
        self._reload_requested = asyncio.Event()
        self._current: KeySet = {}
        self._fetched = time.monotonic()
        self._age_logged = False

    @property
    def current(self) -> KeySet:
        if self.age > self._timing.oldest:
            raise TokenKeysTooOld
        return self._current

    @property
    def age(self) -> float:
        return time.monotonic() - self._fetched

    def request_reload(self) -> None:
        self._reload_requested.set()

    async def reload(self) -> None:
        if self._source.files is not None:
            await self._source.files.reload()
        self._readings.log_next()
        await self._refresh()

    async def fetch_first(self) -> None:
        """Fetch the first set: without one the server would reject every token, so it must not start.

        Raises BadKeySet.
        """
        self._use(await self._fetch())

    async def keep_fresh(self) -> None:
        """Fetch again and again, until cancelled.

        1. Wait for the shortest time between two fetches.
        2. If the last fetch succeeded, wait until the regular refresh, or until a token names an unknown key.
        3. Fetch. If that fails, the last good set stays in use, and the next fetch comes sooner.
        """
        while True:
            # 1. However many tokens name unknown keys, the issuer is asked no more often than this.
            await asyncio.sleep(self._timing.shortest)
            # 2. After a failure step 1 is all the waiting.
            if self._readings.failed_since is None:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(max(0.0, self._timing.refresh - self._timing.shortest)):
                        await self._reload_requested.wait()
            self._reload_requested.clear()
            # 3.
            await self._refresh()

    async def _refresh(self) -> None:
        try:
            self._use(await self._fetch())
        except Exception as error:  # no answer of the issuer may end the loop
            self._readings.fail(error)
            self._log_age_once()

    def _use(self, keys: KeySet) -> None:
        self._current, self._fetched, self._age_logged = keys, time.monotonic(), False
        self._readings.succeed()

    def _log_age_once(self) -> None:
        """Log that the set has become too old to be used, the first time that this is so."""
        if self.age > self._timing.oldest and not self._age_logged:
            self._age_logged = True
            details = {"sources": [self._shown], "age_seconds": round(self.age)}
            _log.error("the token keys are too old: rejecting tokens until a fetch succeeds", extra=details)

    async def _fetch(self) -> KeySet:
        try:
            async with asyncio.timeout(self._timing.fetch):
                content = await self._source.get()
                return await asyncio.to_thread(parse_key_set, content)
        except TimeoutError:
            raise BadKeySet(f"{self._shown}: no key set within {self._timing.fetch:g} s") from None
        except OSError:
            raise BadKeySet(f"{self._shown}: cannot connect. Is it up, and is its certificate trusted?") from None
        except BadKeySet as error:
            raise BadKeySet(f"{self._shown}: {error}") from None
