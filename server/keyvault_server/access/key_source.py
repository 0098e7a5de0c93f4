"""Where the tokens' issuer publishes its keys: a file or a URL, kept fresh beside the calls.

The rules of this file: reading and fetching happen in the background, and `current` is always at hand; a set that is
late, broken or huge leaves the last good one in use, is logged once and reported. But not for ever: what a URL has not
confirmed for too long may have been revoked, and then no token is believed. A URL is https, or on this machine; no
redirect is followed, no proxy asked.
"""

import asyncio
import contextlib
import logging
import ssl
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from keyvault_api.address import is_loopback
from keyvault_server.access.key_set import BadKeySet, KeySet, parse_key_set
from keyvault_server.core.background import in_background
from keyvault_server.core.errors import TokenKeysTooOld
from keyvault_server.core.meter import Meter
from keyvault_server.disk.watched import Readings, Watched, read_file

MAX_KEY_SET = 256 * 1024
"""Bytes of a JWKS."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Timing:
    """When a URL is fetched, in seconds."""

    refresh: float = 300.0
    """So often, if all goes well."""
    shortest: float = 10.0
    """After a failure, or when a token names an unknown key, it is sooner, but never twice within this time."""
    fetch: float = 5.0
    """A fetch's longest time, from the name's resolution to the last byte."""
    oldest: float = 86_400.0
    """A set that was fetched so long ago is not used any more."""


def timing_within(oldest: float) -> Timing:
    """As usual, but so often that a set is fetched several times before it is too old."""
    usual = Timing()
    return Timing(min(usual.refresh, oldest / 4), min(usual.shortest, oldest / 4), usual.fetch, oldest)


class KeySource(Protocol):
    """Where the issuer's keys are at hand."""

    @property
    def current(self) -> KeySet:
        """The last good set; another object whenever it was read anew. Raises TokenKeysTooOld."""

    @property
    def age(self) -> float:
        """Seconds since a URL last gave a good set; 0 for a file, which is looked at all the time."""

    def missing(self) -> None:
        """A token named a key that is not in the set: a newer set may have it."""


@contextlib.asynccontextmanager
async def open_key_source(
    location: str,
    *,
    meter: Meter,
    ca: Path | None = None,
    timing: Timing = Timing(),
) -> AsyncIterator[KeySource]:
    """The issuer's keys while the body runs; the first set is there when it begins. Raises OperatorError.

    `location` is a file, or a URL: https, checked against `ca` (PEM) or the system's roots, or http to this machine.
    `meter` counts the readings of "token keys".
    """
    if "://" not in location:
        file = _FileKeys(Path(location), meter)
        async with file.files.watching():
            yield file
        return
    url = _UrlKeys(location, ca, meter, timing)
    await url.fetch_first()
    async with in_background(url.keep_fresh()):
        yield url


class _FileKeys:
    """A KeySource on a file."""

    age = 0.0

    def __init__(self, path: Path, meter: Meter) -> None:
        self.files = Watched("token keys", [path], lambda: _read_key_set(path), meter)

    @property
    def current(self) -> KeySet:
        return self.files.last

    def missing(self) -> None:
        """A changed file is noticed anyway."""


def _read_key_set(path: Path) -> KeySet:
    try:
        return parse_key_set(read_file(path, MAX_KEY_SET))
    except BadKeySet as error:
        raise BadKeySet(f"{path}: {error}") from None


class _UrlKeys:
    """A KeySource on a URL."""

    def __init__(self, url: str, ca: Path | None, meter: Meter, timing: Timing) -> None:
        self._url = url
        self._timing = timing
        self._shown = _checked(url)
        self._tls = _trusting(ca) if self._shown.startswith("https:") else None
        self._readings = Readings("token keys", [self._shown], meter)
        self._wanted = asyncio.Event()
        self._current: KeySet = {}
        self._fetched = time.monotonic()
        self._told_age = False

    @property
    def current(self) -> KeySet:
        if self.age > self._timing.oldest:
            raise TokenKeysTooOld
        return self._current

    @property
    def age(self) -> float:
        return time.monotonic() - self._fetched

    def missing(self) -> None:
        self._wanted.set()

    async def fetch_first(self) -> None:
        """A server that has never had a key set would refuse every token: it does not start. Raises BadKeySet."""
        self._take(await self._fetch())

    async def keep_fresh(self) -> None:
        """Fetches for ever."""
        while True:
            await asyncio.sleep(self._timing.shortest)
            if self._readings.failed_since is None:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(max(0.0, self._timing.refresh - self._timing.shortest)):
                        await self._wanted.wait()
            self._wanted.clear()
            try:
                self._take(await self._fetch())
            except Exception as error:  # whatever the issuer answers, the last good set still serves
                self._readings.fail(error)
                self._tell_age()

    def _take(self, keys: KeySet) -> None:
        self._current, self._fetched, self._told_age = keys, time.monotonic(), False
        self._readings.succeed()

    def _tell_age(self) -> None:
        """Logs once that nothing serves any more."""
        if self.age > self._timing.oldest and not self._told_age:
            self._told_age = True
            told = {"sources": [self._shown], "age_seconds": round(self.age)}
            _log.error("the tokens' keys are too old, tokens are not believed until there is an answer", extra=told)

    async def _fetch(self) -> KeySet:
        try:
            async with asyncio.timeout(self._timing.fetch):
                content = await _get(self._url, self._tls)
                return await asyncio.to_thread(parse_key_set, content)
        except TimeoutError:
            raise BadKeySet(f"{self._shown} sent no key set within {self._timing.fetch:g} s") from None
        except OSError:
            raise BadKeySet(f"{self._shown} cannot be reached: is it up, and is its certificate trusted?") from None
        except BadKeySet as error:
            raise BadKeySet(f"{self._shown}: {error}") from None


def _checked(url: str) -> str:
    """The URL as it may be shown. Raises BadKeySet for one that must not be asked."""
    try:
        parts = urlsplit(url)
        address = f"[{parts.hostname}]:{parts.port or 0}"
    except ValueError:
        raise BadKeySet("the key set's location is no URL: https://host/path") from None
    if parts.username is not None or not parts.hostname:
        raise BadKeySet("the key set's URL has to name a host, without user and password: https://host/path")
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(address)):
        raise BadKeySet("the key set's URL has to be https: whoever changes it on the way makes tokens")
    return f"{parts.scheme}://{parts.netloc}{parts.path}"


def _trusting(ca: Path | None) -> ssl.SSLContext:
    if ca is not None:
        read_file(ca)  # refuses one that others may write
    try:
        return ssl.create_default_context(cafile=ca)
    except OSError:
        raise BadKeySet(f"{ca} holds no certificates in PEM to check the key set's server against") from None


async def _get(url: str, tls: ssl.SSLContext | None) -> bytes:
    """The body of a plain 200. No redirect is followed and nothing is unpacked. Raises OSError, BadKeySet."""
    import aiohttp  # costs 0.1 s, and only who has tokens from a URL needs it

    connector = aiohttp.TCPConnector(ssl=tls if tls is not None else True)
    headers = {"accept": "application/json", "accept-encoding": "identity"}
    try:
        async with (
            aiohttp.ClientSession(connector=connector, headers=headers, auto_decompress=False) as session,
            session.get(url, allow_redirects=False) as response,
        ):
            if response.status != 200:
                raise BadKeySet(f"the answer was HTTP status {response.status}, not 200")
            content = bytearray()
            async for chunk in response.content.iter_any():
                content += chunk
                if len(content) > MAX_KEY_SET:
                    raise BadKeySet(f"the key set has more than {MAX_KEY_SET} bytes")
            return bytes(content)
    except aiohttp.ClientError as error:
        raise OSError(type(error).__name__) from None
