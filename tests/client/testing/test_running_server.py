"""`running_server`: a real server for users' tests, its outages and its faults."""

import asyncio
import socket
import time
from collections.abc import Iterator

import pytest

from keyvault_client import (
    AlreadyExists,
    Busy,
    Denied,
    InvalidRequest,
    KeyVaultError,
    NotFound,
    OutcomeUnknown,
    ServerFailure,
    Unavailable,
)
from keyvault_client.testing import EmbeddedServer, EmbeddedServerError, running_server

pytestmark = pytest.mark.process
NAME = "prod/db"


@pytest.fixture(scope="module")
def shared() -> Iterator[EmbeddedServer]:
    with running_server() as server:
        yield server


@pytest.fixture
def embedded(shared: EmbeddedServer) -> Iterator[EmbeddedServer]:
    yield shared
    shared.reset()


async def test_a_program_finds_a_real_server(embedded: EmbeddedServer) -> None:
    key = embedded.generate_key("prod/")
    async with embedded.vault() as vault:
        await vault.create(NAME, b"one", key=key)
        assert (await vault.read(NAME, key=key)).plaintext == b"one"
        assert (await vault.whoami()).tenant == "default"
    async with asyncio.timeout(10):
        while '"call": "Create"' not in embedded.log:  # written with a delay
            await asyncio.sleep(0.05)
    assert key.secret().hex() not in embedded.log


def test_a_synchronous_program_finds_it_too(embedded: EmbeddedServer) -> None:
    with embedded.sync_vault() as vault:
        key = vault.generate_key("prod/")
        with embedded.cut_after_commit(times=1):
            assert vault.create(NAME, b"one", key=key).replayed


async def test_records_survive_an_outage_and_not_a_reset(embedded: EmbeddedServer) -> None:
    key, address = embedded.generate_key("prod/"), embedded.address
    async with embedded.vault() as vault:
        await vault.create(NAME, b"one", key=key)
        embedded.stop()
        embedded.stop()
        with pytest.raises(Unavailable, match="connection refused"):
            await vault.read(NAME, key=key, timeout=0.5)
        with pytest.raises(EmbeddedServerError, match=r"the server is stopped: start\(\) it first"):
            embedded.generate_key("prod/")
        embedded.start()
        embedded.start()
        assert embedded.address == address
        assert (await vault.read(NAME, key=key)).plaintext == b"one"
        embedded.stop()
        embedded.reset()
        with pytest.raises(NotFound):
            await vault.read(NAME, key=key)


def test_a_stopped_server_keeps_its_port(embedded: EmbeddedServer) -> None:
    embedded.stop()
    port = int(embedded.address.rpartition(":")[2])
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", port))


@pytest.mark.parametrize("error", [Denied, ServerFailure, InvalidRequest, NotFound, AlreadyExists])
async def test_a_refusal_is_raised_as_the_real_one(embedded: EmbeddedServer, error: type[KeyVaultError]) -> None:
    async with embedded.vault() as vault:
        with embedded.refuse(error, method="GenerateKey") as refused, pytest.raises(error) as raised:
            await vault.generate_key("prod/")
        assert type(raised.value) is error
        assert raised.value.request_id.startswith("played-")
        assert refused.calls == 1
        await vault.generate_key("prod/")


async def test_an_instance_is_raised_as_it_is(embedded: EmbeddedServer) -> None:
    async with embedded.vault() as vault:
        embedded.refuse(Busy("slow down", reason="BACKEND_THROTTLED", retry_after=60))
        with pytest.raises(Busy, match=r"^slow down$") as raised:
            await vault.generate_key("prod/")
        assert (raised.value.reason, raised.value.retry_after) == ("BACKEND_THROTTLED", 60)
        embedded.end_faults()
        await vault.generate_key("prod/")


async def test_a_refusal_that_ends_is_retried_by_the_client(embedded: EmbeddedServer) -> None:
    async with embedded.vault() as vault:
        with embedded.refuse(Busy, times=2) as refused:
            await vault.generate_key("prod/")
        assert refused.calls == 2


async def test_a_cut_after_the_commit_is_a_replay(embedded: EmbeddedServer) -> None:
    async with embedded.vault() as vault:
        key = await vault.generate_key("prod/")
        with embedded.cut_after_commit(times=1) as cut:
            written = await vault.create(NAME, b"one", key=key)
        assert (written.replayed, written.revision, cut.calls) == (True, 1, 1)


@pytest.mark.parametrize("committed", [True, False])
async def test_an_unknown_outcome_is_true_or_not(embedded: EmbeddedServer, committed: bool) -> None:
    async with embedded.vault() as vault:
        key = await vault.generate_key("prod/")
        with embedded.unknown(committed=committed, times=1) as unknown, embedded.refuse(Denied, method="Create"):
            with pytest.raises(OutcomeUnknown, match="the server's policy does not allow this call"):
                await vault.create(NAME, b"one", key=key)  # the second attempt is denied, which settles nothing
            assert unknown.calls == 1
        listed = [name.key_id async for name in vault.list("")]
        assert listed == ([NAME] if committed else [])


async def test_the_caller_gets_the_servers_own_refusals(embedded: EmbeddedServer) -> None:
    async with embedded.vault() as vault:
        key = await vault.generate_key(NAME)
        await vault.create(NAME, b"one", key=key)
        with pytest.raises(AlreadyExists) as raised:
            await vault.create(NAME, b"one", key=key)
        assert raised.value.current_revision == 1
        with pytest.raises(Denied, match="UnwrapKey"):
            await vault.unwrap_key(key)


async def test_a_delay_is_for_its_method_alone(embedded: EmbeddedServer) -> None:
    async with embedded.vault() as vault:
        with embedded.delay(0.2, method="GenerateKey", times=1) as delayed:
            await vault.whoami()
            assert delayed.calls == 0
            began = time.monotonic()
            await vault.generate_key("prod/")
            assert time.monotonic() - began >= 0.2
            await vault.generate_key("prod/")
            assert delayed.calls == 1


async def test_a_stop_ends_calls_that_are_delayed(embedded: EmbeddedServer) -> None:
    async with embedded.vault(timeout=3) as vault:
        await vault.whoami()
        with embedded.delay(600) as delayed:
            call = asyncio.create_task(vault.generate_key("prod/"))
            while not delayed.calls:
                await asyncio.sleep(0.01)
            await asyncio.to_thread(embedded.stop)
            with pytest.raises(Unavailable):
                await call


def test_a_wrong_fault_is_refused_before_it_is_sent(embedded: EmbeddedServer) -> None:
    with pytest.raises(ValueError, match="unknown method 'Reed'"):
        embedded.delay(1, method="Reed")
    with pytest.raises(ValueError, match="invalid delay -1"):
        embedded.delay(-1)
    with pytest.raises(ValueError, match="invalid times 0"):
        embedded.cut_after_commit(times=0)
