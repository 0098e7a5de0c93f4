"""A middlebox forgets an idle connection: calls leave it within seconds, in the same object and in a new one."""

import asyncio
import contextlib
import inspect
import os
import socket
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from keyvault_client import KeyVault
from keyvault_client.channel import FORGOTTEN_SECONDS
from tests.support.middlebox import Middlebox, middlebox
from tests.support.servers import embedded

pytestmark = pytest.mark.slow
KEEPALIVE = 10.0
"""Seconds between the last data and a ping."""
BUSY = 30.0
"""Seconds that a loaded machine may add."""


def timeouts_to(port: int) -> list[int]:
    """Return TCP_USER_TIMEOUT, in ms, of each socket of this process that is connected to this port."""
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # closed in the meantime, or not connected
            if not str(entry.readlink()).startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(entry.name))) as one:
                if one.family != socket.AF_UNIX and one.getpeername()[1] == port:
                    found.append(one.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT))
    return found


@pytest.fixture
async def box(tmp_path: Path) -> AsyncIterator[Middlebox]:
    async with embedded(tmp_path / "data") as served, middlebox(int(served.address.rpartition(":")[2])) as relayed:
        yield relayed


async def test_a_read_leaves_a_forgotten_connection(box: Middlebox) -> None:
    async with KeyVault(box.address, timeout=60) as vault:
        key = await vault.generate_key("prod/")
        await vault.create("prod/x", b"1", key=key)
        box.forget()
        began = time.monotonic()
        assert (await vault.read("prod/x", key=key)).plaintext == b"1"
        assert time.monotonic() - began < FORGOTTEN_SECONDS + BUSY
        began = time.monotonic()
        await vault.read("prod/x", key=key)
        assert time.monotonic() - began < BUSY


async def test_an_idle_connection_is_kept_alive(box: Middlebox) -> None:
    """A middlebox remembers a flow by its data: without calls the pings are all there is."""
    async with KeyVault(box.address) as vault:
        await vault.generate_key("prod/")
        await asyncio.sleep(1)  # the end of the call has passed
        passed = box.passed
        async with asyncio.timeout(KEEPALIVE + BUSY):
            while box.passed == passed:
                await asyncio.sleep(0.1)


@pytest.mark.skipif(sys.platform != "linux", reason="finds its sockets in /proc")
async def test_the_kernel_bounds_unacknowledged_data(box: Middlebox) -> None:
    """Where packets are dropped, this ends the connection before any ping does."""
    async with KeyVault(box.address) as vault:
        await vault.generate_key("prod/")
        assert timeouts_to(box.port) == [FORGOTTEN_SECONDS * 1000]


async def test_an_update_leaves_a_forgotten_connection(box: Middlebox) -> None:
    async with KeyVault(box.address, timeout=60) as vault:
        key = await vault.generate_key("prod/")
        await vault.create("prod/x", b"1", key=key)
        box.forget()
        began = time.monotonic()
        assert (await vault.update("prod/x", b"2", key=key)).revision == 2
        assert time.monotonic() - began < FORGOTTEN_SECONDS + BUSY
        assert (await vault.read("prod/x", key=key)).plaintext == b"2"


async def test_a_new_client_does_not_inherit_a_dead_connection(box: Middlebox) -> None:
    async with KeyVault(box.address, timeout=60) as idle:
        await idle.generate_key("prod/")
        box.forget()
        async with KeyVault(box.address, timeout=BUSY) as vault:
            await vault.generate_key("prod/")
        assert box.accepted == 2


async def test_a_connection_forgotten_between_pings_is_left(box: Middlebox) -> None:
    """The longest wait: the last ping was answered, and a proxy acknowledges what it does not pass on."""
    async with KeyVault(box.address, timeout=60) as vault:
        await vault.generate_key("prod/")
        await asyncio.sleep(1)
        box.forget()
        began = time.monotonic()
        await vault.generate_key("prod/")
        assert time.monotonic() - began < KEEPALIVE + FORGOTTEN_SECONDS + BUSY


def test_the_default_timeout_is_enough_to_recover() -> None:
    """The tests above show the time that it takes; a busy machine may add more than there is left."""
    default = inspect.signature(KeyVault).parameters["timeout"].default
    assert default >= FORGOTTEN_SECONDS + 3
