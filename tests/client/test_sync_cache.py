"""The cache of a synchronous client, on an event loop of another thread."""

import asyncio
import inspect
import queue
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from keyvault_api.v1 import keyvault_pb2 as pb
from keyvault_client import DataKey, InvalidRequest, KeyVault, NotCached, NotRefreshed, Record, cache, sync_cache
from keyvault_client.records import seal
from tests.support.lying import lying_server

KEY = DataKey("default", "a", b"wrapped", bytes(32))


def answer(revision: int, data: bytes) -> pb.BatchReadResponse:
    made = pb.BatchReadResponse()
    made.results.add(record=pb.ReadResponse(revision=revision, envelope=seal(KEY, "a", revision, data)))
    return made


class Loop:
    """An event loop in a thread, with a client of a server that gives these answers."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)

    def call(self, call: Any) -> Any:
        """Run a coroutine."""
        future: Future[Any] = asyncio.run_coroutine_threadsafe(call, self.loop)
        return future.result(60)


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    made.thread.start()
    yield made
    made.loop.call_soon_threadsafe(made.loop.stop)
    made.thread.join()
    made.loop.close()


def test_both_caches_have_the_same_public_methods() -> None:
    for name, original in inspect.getmembers(cache.Secrets, inspect.isfunction):
        if not name.startswith("_"):
            ours = getattr(sync_cache.Secrets, name)
            assert inspect.getdoc(ours) == inspect.getdoc(original)
            assert inspect.signature(ours) == inspect.signature(original)


def test_a_cache_works_without_an_event_loop_of_ones_own(loop: Loop) -> None:
    changes: queue.SimpleQueue[tuple[str, bytes, bool]] = queue.SimpleQueue()

    def on_change(name: str, record: Record) -> None:
        changes.put((name, record.plaintext, threading.current_thread() is loop.thread))

    def plain(vault: KeyVault, **options: Any) -> sync_cache.Secrets:
        return sync_cache.Secrets(vault.cache({"a": KEY}, **options), loop.call)

    server = lying_server({"BatchRead": [answer(1, b"one"), answer(2, b"two"), answer(1, b"one")]})
    vault = KeyVault(loop.call(server.__aenter__()))
    secrets = plain(vault, on_change=sync_cache.in_thread(on_change))
    with secrets as entered:
        assert entered is secrets
        assert dict(secrets) == {"a": b"one"}
        assert (len(secrets), secrets.record("a").revision, secrets.age("a") < 60) == (1, 1, True)
        secrets.refresh()
        assert secrets["a"] == b"two"
        assert changes.get(timeout=60) == ("a", b"two", False)
        with pytest.raises(NotRefreshed):
            secrets.refresh()
        assert type(secrets.failure("a")).__name__ == "RolledBack"
        assert repr(secrets) == "<Secrets: 1 of 1 names have a value>"
    with pytest.raises(NotCached):
        secrets["a"]
    loop.call(vault.close())
    loop.call(server.__aexit__(None, None, None))


def test_an_async_function_is_refused_where_none_awaits_it() -> None:
    async def on_change(_: str, __: Record) -> None: ...

    with pytest.raises(InvalidRequest, match="on_change is an async function"):
        sync_cache.in_thread(on_change)
    assert sync_cache.in_thread(None) is None
