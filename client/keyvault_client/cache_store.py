"""When a cache reads and writes its file, which cache_file.py describes.

The rules of this file:

* A file that cannot be used is a warning, never an error: the server has the records. One that is not a cache's, or
  cannot be read, is also left alone: the path may be a mistake.
* A changed record is written at once. Times alone are written when they are TIMES_SECONDS old, so that a cache costs
  the disk little; what is read later then seems older than it is, never newer.
"""

import asyncio
import logging
import math
import threading
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from keyvault_client.cache_file import ForeignFile, SealedRecord, read_cache_file, write_cache_file
from keyvault_client.errors import InvalidRequest, KeyVaultError
from keyvault_client.keys import DataKey
from keyvault_client.records import Record
from keyvault_client.refresh_log import summary

TIMES_SECONDS = 300.0
"""Seconds after which the file gets new times, if no record changed; a quarter of `max_age` if that is less."""

_log = logging.getLogger(__name__)


class Held(NamedTuple):
    """A value, and when the request was sent whose answer confirmed it, by the clock of the cache."""

    record: Record
    envelope: bytes
    confirmed: float


class CacheStore:
    """The file of one cache, and what was written to it."""

    def __init__(self, path: str | Path, max_age: float | None = None) -> None:
        self._path = Path(path)
        self._times_seconds = min(TIMES_SECONDS, math.inf if max_age is None else max_age / 4)
        self._foreign = False
        self._turn = threading.Lock()
        self._last_save = 0
        self._failing = False
        self._written: dict[str, bytes] = {}
        self._newest = -math.inf

    async def load(self) -> dict[str, SealedRecord]:
        """Return what the file has, nothing is opened yet; {} and a warning if it cannot be used."""
        try:
            return await asyncio.to_thread(read_cache_file, self._path)
        except FileNotFoundError:
            return {}
        except (OSError, InvalidRequest) as error:
            self._foreign = isinstance(error, OSError | ForeignFile)
            _log.warning("the file of the cache is ignored: %s", self._reason(error))
            return {}

    def note_loaded(self, held: Mapping[str, Held], unusable: Mapping[str, KeyVaultError]) -> None:
        """Note what of the file is in use, and log what is not."""
        self._remember(held)
        if unusable:
            _log.warning("%s: records of the file are ignored: %s", self._path, summary(unusable))

    async def save(self, held: Mapping[str, Held], keys: Mapping[str, DataKey], now: float) -> None:
        """Write the file if it is time to; `now` is by the clock of the cache. A failure is a warning."""
        if self._foreign or not self._is_due(held):
            return
        held, keys = dict(held), dict(keys)  # a thread reads them while the cache goes on
        self._last_save += 1
        try:
            await asyncio.to_thread(self._write, held, keys, now, self._last_save)
        except (OSError, InvalidRequest) as error:
            if not self._failing:
                _log.warning("the file of the cache is not written: %s", self._reason(error))
            self._failing = True
        else:
            self._failing = False
            self._remember(held)

    def _is_due(self, held: Mapping[str, Held]) -> bool:
        if {name: one.envelope for name, one in held.items()} != self._written:
            return True
        return _newest(held) - self._newest >= self._times_seconds

    def _write(self, held: Mapping[str, Held], keys: Mapping[str, DataKey], now: float, number: int) -> None:
        """Write the file, unless a later save has begun: one that is cancelled goes on in its thread."""
        today = datetime.now(UTC)
        records = [
            SealedRecord.of(one.record, one.envelope, today - timedelta(seconds=now - one.confirmed), keys[name])
            for name, one in held.items()
        ]
        with self._turn:
            if number == self._last_save:
                write_cache_file(self._path, records)

    def _reason(self, error: OSError | InvalidRequest) -> str:
        return f"{self._path}: {error.strerror}" if isinstance(error, OSError) else str(error)

    def _remember(self, held: Mapping[str, Held]) -> None:
        self._written = {name: one.envelope for name, one in held.items()}
        self._newest = _newest(held)


def _newest(held: Mapping[str, Held]) -> float:
    return max((one.confirmed for one in held.values()), default=-math.inf)
