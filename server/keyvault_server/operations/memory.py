"""The memory of a server: what clients can make it take at most, and giving back what it took.

The rule of this file: the bound is a sum of the limits that hold, each times what one costs; a limit that is not in it
bounds nothing. The costs were measured with `python -m benchmarks.attack`.
"""

import asyncio
import ctypes
import gc
import os
import sys
from collections.abc import Callable
from pathlib import Path

from keyvault_api.envelope import MAX_ENVELOPE
from keyvault_api.names import MAX_MESSAGE
from keyvault_server.backends.embedded.row_cache import CACHED_BYTES
from keyvault_server.core.batch import MAX_ENVELOPES, MOST_ASKING
from keyvault_server.operations.open_files import room_for_connections
from keyvault_server.operations.settings import Settings
from keyvault_server.rpc.access_log import MAX_LINES
from keyvault_server.rpc.guard import Limits
from keyvault_server.rpc.replies import ALL_CONNECTIONS

MIB = 1024 * 1024
LOOK_SECONDS = 5.0
QUIET = 20
"""Collections of young objects between two looks at which a full one disturbs nobody: some 14,000 objects came."""
GROWTH = 16 * MIB
"""Bytes by which the process has to have grown before memory is given back."""

_PROCESS, _AWS = 90 * MIB, 60 * MIB
_CONNECTION, _CALL, _LOG_LINE = 48 * 1024, 32 * 1024, 512
_PAGE = 6 * MIB
"""1,000 of the longest names: DynamoDB's reply, what is parsed of it, and the answer. 2 MiB without DynamoDB."""
READ_TOGETHER = 34
"""Records that a BatchRead asks DynamoDB for at a time."""
_REPLIES, _REPLY_FORMS = 4, 3
"""DynamoDB's replies at a time; one has three forms while it is parsed, one after the other: JSON, text and bytes."""
_REQUEST_COPIES, _REPLY_COPIES, _BATCH_COPIES, _HELD_COPIES = 3, 2, 3, 4

Part = tuple[str, int]


def parts(settings: Settings) -> list[Part]:
    """Return what the bound is made of, in bytes; what these settings leave out is not in it."""
    limits = Limits()
    connections = settings.connections or room_for_connections(settings).service
    process = _PROCESS + (_AWS if settings.backend == "aws" else 0)
    workers = settings.workers
    batches = limits.divided(workers).batch_reads * workers
    pages = batches if settings.backend == "aws" else 0  # the embedded store makes one after the other
    reply = READ_TOGETHER * MAX_ENVELOPE if settings.backend == "aws" else 0  # the embedded store has none
    held = limits.divided(workers).held_records * workers if settings.backend == "aws" and settings.history else 0
    processes = [("process", process)]
    if workers > 1:  # which divide all limits
        processes = [("parent", _PROCESS), (f"{workers} workers' processes", workers * process)]
    made = [
        *processes,
        ("records that were read", CACHED_BYTES if settings.backend == "embedded" else 0),
        (f"{limits.receiving_calls} messages on their way", limits.receiving_calls * MAX_MESSAGE),
        (f"requests in flight, {_REQUEST_COPIES} copies", limits.request_bytes * _REQUEST_COPIES),
        (f"{batches} BatchReads, {_BATCH_COPIES} copies", batches * MAX_ENVELOPES * _BATCH_COPIES),
        (f"{_REPLIES} replies of DynamoDB", workers * (reply * (_REPLIES + _REPLY_FORMS) * 4 // 3)),
        (f"{MOST_ASKING} replies that BatchReads hold", workers * reply * MOST_ASKING),
        (f"{pages} Lists", pages * _PAGE),
        (f"{held} Updates with a copy, {_HELD_COPIES} copies", held * MAX_ENVELOPE * _HELD_COPIES),
        (f"replies not taken, {_REPLY_COPIES} copies", ALL_CONNECTIONS * _REPLY_COPIES),
        (f"{limits.unanswered_calls} calls, from headers to reply", limits.unanswered_calls * _CALL),
        (f"{connections} connections", connections * _CONNECTION),
        ("access log that nobody reads", workers * MAX_LINES * _LOG_LINE if settings.access_log else 0),
    ]
    return [part for part in made if part[1]]


async def give_back(trim: Callable[[], None] | None = None) -> None:
    """Return freed memory to the system while the process is larger than it was; the allocator keeps it otherwise."""
    trim = trim or _trim
    lowest, cycles = resident(), Cycles()
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        if resident() > lowest + GROWTH:
            cycles.collect_if_quiet()
            await asyncio.to_thread(trim)  # takes milliseconds, without the interpreter's lock
        lowest = min(lowest, resident())


class Cycles:
    """Objects that refer to one another, such as a call and the error that ended it, which grpc.aio keeps.

    Python looks for them when many more objects came than went, so those of a flood stay when it is over.
    """

    def __init__(self) -> None:
        gc.freeze()  # what is there at the start stays, so no collection looks at it
        self._seen = self._collected = _young_collections()

    def collect_if_quiet(self) -> None:
        """Collect if few objects came since the last time that this was asked: the loop waits for it."""
        before, self._seen = self._seen, _young_collections()
        if self._collected < self._seen <= before + QUIET:
            gc.collect()
            self._collected = self._seen = _young_collections()


def _young_collections() -> int:
    """Return how often Python has looked at its youngest objects, which it does for every few hundred new ones."""
    return int(gc.get_stats()[0]["collections"])


def resident() -> int:
    """Return the bytes of memory that the process has now; 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _trim() -> None:
    """Call malloc_trim(3), which only glibc has."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
