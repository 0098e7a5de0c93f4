"""The synchronous client: what the other does, from threads, in and out of event loops, and never for longer."""

import asyncio
import gc
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, assert_type

import grpc
import pytest

from keyvault_api.v1 import keyvault_pb2 as pb
from keyvault_client import (
    Conflict,
    DataKey,
    InvalidRequest,
    ListedName,
    NotCached,
    NotFound,
    OutcomeUnknown,
    Record,
    ServerFailure,
    Unavailable,
    Written,
    WrongEventLoop,
)
from keyvault_client.loop_thread import LoopThread, loop_thread
from keyvault_client.sync import KeyVault
from keyvault_client.sync_cache import Secrets
from tests.support.lying import lying_server
from tests.support.servers import Served

KEY = DataKey("", "prod/", b"wrapped", bytes(32))


@pytest.fixture
def nothing() -> Iterator[socket.socket]:
    """A listener that answers nothing: a call to it ends at its deadline."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)
        yield listener


def address_of(listener: socket.socket) -> str:
    return f"127.0.0.1:{listener.getsockname()[1]}"


def every_call(address: str) -> None:
    """Make each call once, with a result that shows which one was made."""
    with KeyVault(address) as vault:
        key, new_key = vault.generate_key("prod/"), vault.generate_key("prod/")
        assert vault.create("prod/a", b"1", key=key).revision == 1
        assert vault.update("prod/a", b"2", key=key, revision=1).revision == 2
        assert_type(vault.read("prod/a", key=key), Record)
        assert vault.read("prod/a", key=key).plaintext == b"2"
        assert vault.read("prod/a", key=key, revision=1).plaintext == b"1"
        assert vault.read_if_changed("prod/a", key=key, known_revision=2) is None
        assert_type(vault.list("prod/"), Iterator[ListedName])
        assert [name.key_id for name in vault.list("prod/")] == ["prod/a"]
        assert [one.revision for one in vault.revisions("prod/a")] == [2, 1]
        assert vault.restore("prod/a", key=key, revision=1).revision == 3
        assert vault.rotate_key("prod/a", key=key, new_key=new_key).revision == 4
        assert vault.read("prod/a", key=vault.rewrap_key(new_key)).plaintext == b"1"
        many = vault.read_many({"prod/a": new_key, "prod/b": key})
        assert [type(each) for each in many.values()] == [Record, NotFound]
        with pytest.raises(Conflict) as refused:
            vault.update("prod/a", b"3", key=new_key, revision=2)
        assert refused.value.current_revision == 4
        assert_type(vault.delete("prod/a", key=new_key), Written)
        assert [name.key_id for name in vault.list(deleted=True)] == ["prod/a"]
        assert vault.whoami().tenant == "default"
        with pytest.raises(InvalidRequest, match="timeout -1"):
            vault.read("prod/a", key=key, timeout=-1)
        with pytest.raises(InvalidRequest, match="invalid prefix"):
            vault.list("\n")


async def test_every_call_does_what_the_other_client_does(server: Served) -> None:
    await asyncio.to_thread(every_call, server.address)


@pytest.mark.medium
async def test_threads_share_a_client_and_one_thread_of_its_own(server: Served) -> None:
    vault = KeyVault(server.address)

    def use(number: int) -> int:
        name = f"prod/{number}"
        vault.create(name, b"1", key=key)
        for data in (b"2", b"3"):
            vault.update(name, data, key=key)
        return vault.read(name, key=key).revision

    def use_from_many() -> list[int]:
        with ThreadPoolExecutor(8) as threads:
            return list(threads.map(use, range(8)))

    key = await asyncio.to_thread(vault.generate_key, "prod/")
    assert await asyncio.to_thread(use_from_many) == [3] * 8
    assert [each.name for each in threading.enumerate()].count("keyvault-client") == 1
    await asyncio.to_thread(vault.close)


async def test_a_call_within_a_running_loop_works(server: Served) -> None:
    async def use() -> str:
        with KeyVault(server.address) as vault:
            return vault.generate_key("prod/").scope

    assert await asyncio.to_thread(asyncio.run, use()) == "prod/"


async def test_a_closed_client_refuses_calls_as_the_other_does(server: Served) -> None:
    def use() -> None:
        unused, vault = KeyVault(server.address), KeyVault(server.address)
        vault.generate_key()
        for each in (unused, vault):
            each.close()
            each.close()
            with pytest.raises(Unavailable, match="this client is closed; the request was not sent"):
                each.generate_key()

    await asyncio.to_thread(use)


async def test_names_before_a_failure_are_listed() -> None:
    page = pb.ListResponse(names=[pb.ListResponse.Name(key_id="a")], next_page_token="more")
    async with lying_server({"List": [page, page]}) as address:

        def use() -> list[str]:
            with KeyVault(address) as vault:
                names = vault.list()
                first = next(names).key_id
                with pytest.raises(ServerFailure, match="out of order"):
                    next(names)
                return [first, *(name.key_id for name in names)]

        assert await asyncio.to_thread(use) == ["a"]


@pytest.mark.medium
def test_a_collected_client_frees_its_connection_in_its_thread(nothing: socket.socket) -> None:
    freed: queue.SimpleQueue[str] = queue.SimpleQueue()
    others = {id(one) for one in gc.get_objects() if isinstance(one, grpc.aio.Channel)}
    vault = KeyVault(address_of(nothing))
    with pytest.raises(Unavailable):
        vault.generate_key(timeout=0.1)
    (channel,) = [one for one in gc.get_objects() if isinstance(one, grpc.aio.Channel) and id(one) not in others]
    weakref.finalize(channel, lambda: freed.put(threading.current_thread().name))
    del channel, vault
    gc.collect()
    assert freed.get(timeout=10) == "keyvault-client"


@pytest.mark.medium
def test_a_call_ends_at_its_timeout(nothing: socket.socket) -> None:
    with KeyVault(address_of(nothing), timeout=0.1) as vault:
        began = time.monotonic()
        with pytest.raises(Unavailable, match="timed out while connecting"):
            vault.read("prod/a", key=KEY)
        assert time.monotonic() - began < 1


@pytest.mark.medium
def test_ctrl_c_ends_a_call_at_once_and_cancels_it(nothing: socket.socket) -> None:
    async def others() -> int:
        await asyncio.sleep(0)
        return len(asyncio.all_tasks())

    with KeyVault(address_of(nothing)) as vault:
        before = loop_thread().run(others(), 1)
        interrupt = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
        interrupt.start()
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            vault.generate_key()
        assert time.monotonic() - began < 1
        assert loop_thread().run(others(), 1) == before


async def test_a_callback_of_a_cache_may_use_the_client(server: Served) -> None:
    changed: queue.SimpleQueue[tuple[bytes, int]] = queue.SimpleQueue()

    def use() -> None:
        with KeyVault(server.address) as vault:
            key = vault.generate_key("prod/")
            vault.create("prod/a", b"1", key=key)

            def on_change(name: str, record: Record) -> None:
                changed.put((record.plaintext, vault.read(name, key=key).revision))

            with vault.cache({"prod/a": key}, on_change=on_change) as secrets:
                assert_type(secrets, Secrets)
                assert secrets["prod/a"] == b"1"
                vault.update("prod/a", b"2", key=key)
                secrets.refresh()
                assert secrets["prod/a"] == b"2"
                assert changed.get(timeout=10) == (b"2", 2)
            with pytest.raises(NotCached):
                secrets["prod/a"]

    await asyncio.to_thread(use)


async def test_a_token_comes_from_a_function_and_its_own_thread(server: Served) -> None:
    threads = []

    def token() -> str:
        threads.append(threading.current_thread().name)
        return "abc"

    def use() -> None:
        with KeyVault(server.address, token=token) as vault:
            vault.generate_key()

    await asyncio.to_thread(use)
    assert len(threads) == 1
    assert threads[0] not in ("MainThread", "keyvault-client")


def test_an_async_token_function_is_refused() -> None:
    async def token() -> str:
        return "abc"

    source: Any = token
    with pytest.raises(InvalidRequest, match="token is an async function"):
        KeyVault(token=source)


@pytest.fixture
def thread() -> Iterator[LoopThread]:
    one = LoopThread(grace=0.05)
    yield one
    one.stop()


async def block(until: threading.Event) -> None:
    """Hold the event loop, as a bug may."""
    until.wait(10)


async def one() -> int:
    return 1


@pytest.mark.medium
@pytest.mark.parametrize(("mutates", "error"), [(False, Unavailable), (True, OutcomeUnknown)])
def test_a_caller_does_not_wait_for_a_loop_that_hangs(thread: LoopThread, mutates: bool, error: type) -> None:
    until = threading.Event()
    thread.start(block(until))
    began = time.monotonic()
    with pytest.raises(error, match="did not end in time"):
        thread.run(one(), 0.05, mutates=mutates)
    assert time.monotonic() - began < 1
    until.set()
    assert thread.run(one(), 1) == 1


@pytest.mark.slow
def test_a_mutation_that_is_given_up_has_an_unknown_outcome(nothing: socket.socket) -> None:
    until = threading.Event()
    vault = KeyVault(address_of(nothing), timeout=0)
    loop_thread().start(block(until))
    with ThreadPoolExecutor(2) as threads:
        read, write = threads.submit(vault.read, "prod/a", key=KEY), threads.submit(vault.delete, "prod/a", key=KEY)
        with pytest.raises(OutcomeUnknown):
            write.result(10)
        with pytest.raises(Unavailable):
            read.result(10)
    until.set()
    vault.close()


def test_a_call_from_the_loop_itself_is_refused(thread: LoopThread) -> None:
    async def call() -> int:
        return thread.run(one(), 1)

    with pytest.raises(WrongEventLoop, match="would wait for itself"):
        thread.run(call(), 1)


def test_what_ends_the_loop_ends_no_other_call(thread: LoopThread) -> None:
    async def leave() -> None:
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        thread.run(leave(), 1)
    assert thread.run(one(), 1) == 1


def test_a_call_that_is_cancelled_by_the_end_has_a_typed_error(thread: LoopThread) -> None:
    waiting = threading.Event()

    async def wait() -> None:
        waiting.set()
        await asyncio.sleep(10)

    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(thread.run, wait(), 10, mutates=True)
        assert waiting.wait(5)
        thread.stop()
        with pytest.raises(OutcomeUnknown, match="this process is exiting"):
            call.result(5)


EXITING = """
import atexit, sys, threading, time

def refuse():
    try:
        vault.generate_key()
    except Unavailable as error:
        print(error)

atexit.register(refuse)  # before the library's own function, so it runs after that
from keyvault_client import Unavailable
from keyvault_client.sync import KeyVault

def wait():
    try:
        KeyVault(sys.argv[2], timeout=60).generate_key()
    except Unavailable:
        pass

vault = KeyVault(sys.argv[1])
threading.stack_size(1 << 47)  # more than there is: no thread can start
refuse()
threading.stack_size(0)
atexit.register(vault.generate_key)
vault.generate_key()
threading.Thread(target=wait, daemon=True).start()
time.sleep(0.2)
next(vault.list(), None)
"""


@pytest.mark.slow
def test_a_process_without_threads_or_at_its_end_says_so(address: str, nothing: socket.socket) -> None:
    command = [sys.executable, "-c", EXITING, address, address_of(nothing)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, "")  # with an open client, and another one's call in a thread
    assert done.stdout.splitlines() == [
        "cannot start the client's thread (can't start new thread); the request was not sent",
        "this process is exiting; the request was not sent",
    ]
