"""What a page of names costs among many: `python -m benchmarks.names [--names 1000000]`.

Two embedded stores, each with as many tombstones as live names, and a tombstone between any two live names: one of
1,000 live names, one of a million. Pages of 100 names begin at a random place near the beginning, the middle or the end
of a listing. One page more asks for live names under a prefix that has tombstones alone. The stores answer in turns;
each figure is the median of all pages, and the ratio is that of the medians. Core 0 alone.

It needs 700 MB of disk, next to this file, and two minutes.
"""

import asyncio
import os
import random
import sqlite3
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path

from benchmarks.arguments import parser_of
from benchmarks.servers import SERVER_CORE
from keyvault_api.envelope import Kind
from keyvault_server.backends.embedded.sqlite import SqliteStore, open_store
from keyvault_server.core.records import FORMAT

HERE = Path(__file__).parent
FEW, PAGE, ROUNDS = 1_000, 100, 300
PLACES = ("beginning", "middle", "end")
TENANT, BARE = "acme", "gone/"
_INSERT = (
    "INSERT INTO record (tenant, key_id, format, head, ring, created, updated, since, revisions, kind, body)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


def name_of(number: int) -> str:
    """Return a name; even ones are live, odd ones are deleted."""
    return f"prod/{number:08}"


def rows(names: int) -> Iterator[tuple[object, ...]]:
    """Return the rows of a store: so many live names, and as many deleted ones in each of two prefixes."""
    for number in range(2 * names):
        yield _row(name_of(number), Kind.TOMBSTONE if number % 2 else Kind.DATA)
    for number in range(names):
        yield _row(f"{BARE}{number:08}", Kind.TOMBSTONE)


def _row(name: str, kind: Kind) -> tuple[object, ...]:
    head = b"KVE\1\1" + bytes([kind, 0, 0]) + (1).to_bytes(8, "big") + bytes(56)
    return (TENANT, name, FORMAT, head, bytes(16), 1, 1, 1, bytes(12), kind, bytes(16))


@asynccontextmanager
async def filled_store(path: Path, names: int) -> AsyncIterator[SqliteStore]:
    """Open a store that holds these names."""
    async with open_store(path):
        pass  # makes the schema
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executemany(_INSERT, rows(names))
    async with open_store(path) as store:
        yield store


def begin_of(place: str, names: int, *, deleted: bool) -> str:
    """Return a random name of the listing, at this place of it and with a whole page after it."""
    pages = max(1, names // PAGE // 10)
    first = {"beginning": 0, "middle": names // 2, "end": names - (pages + 1) * PAGE}[place]
    return name_of(2 * (first + random.randrange(pages * PAGE)) + deleted)


async def microseconds(store: SqliteStore, prefix: str, after: str, size: int, *, deleted: bool) -> float:
    """Return what one page took, which has so many names."""
    began = time.perf_counter()
    page = await store.list_names(TENANT, prefix, after, PAGE, deleted=deleted)
    took = time.perf_counter() - began
    assert len(page.names) == size, (after, len(page.names))
    return took * 1e6


async def compare(stores: dict[int, SqliteStore]) -> None:
    """Print a row for each kind of page."""
    print(f"| page of {PAGE} names | {' | '.join(f'us, {names:,} names' for names in stores)} | ratio |")
    print("| --- | ---: | ---: | ---: |")
    for kind in ("live", "deleted"):
        for place in PLACES:
            took: dict[int, list[float]] = {names: [] for names in stores}
            for _ in range(ROUNDS):
                for names, store in stores.items():
                    after = begin_of(place, names, deleted=kind == "deleted")
                    took[names].append(await microseconds(store, "prod/", after, PAGE, deleted=kind == "deleted"))
            show(f"{kind}, {place}", took)
    took = {names: [] for names in stores}
    for _ in range(ROUNDS):
        for names, store in stores.items():
            took[names].append(await microseconds(store, BARE, "", 0, deleted=False))
    show("none, among tombstones alone", took)


def show(title: str, took: dict[int, list[float]]) -> None:
    """Print one row: the few names come first."""
    few, many = map(statistics.median, took.values())
    print(f"| {title} | {few:.0f} | {many:.0f} | {many / few:.2f} |")


async def main(names: int) -> None:
    """Fill both stores, then measure."""
    os.sched_setaffinity(0, {SERVER_CORE})
    random.seed(1)
    with tempfile.TemporaryDirectory(dir=HERE, prefix="data-") as data:
        async with AsyncExitStack() as opened:
            stores = {}
            for number in (FEW, names):
                began = time.perf_counter()
                stores[number] = await opened.enter_async_context(filled_store(Path(data) / f"{number}.db", number))
                size = (Path(data) / f"{number}.db").stat().st_size
                print(f"{number:,} live names: {size / 1e6:.0f} MB in {time.perf_counter() - began:.0f} s")
            await compare(stores)


if __name__ == "__main__":
    parser = parser_of("names", __doc__)
    parser.add_argument("--names", type=int, default=1_000_000, help="live names in the large store")
    asyncio.run(main(parser.parse_args().names))
