"""A call ends at its deadline, whatever gRPC does, and leaves nothing behind."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest

from keyvault_client import DataKey, InvalidRequest, KeyVault, KeyVaultError, NotFound, OutcomeUnknown, Unavailable
from keyvault_client.transport import GRACE_SECONDS
from tests.support.servers import Served

KEY, OTHER = (DataKey("acme", "prod/", b"wrapped", bytes([number]) * 32) for number in (1, 2))
READS: tuple[Callable[[KeyVault], Awaitable[object]], ...] = (
    lambda vault: vault.generate_key("prod/"),
    lambda vault: vault.read("prod/db", key=KEY),
    lambda vault: vault.read("prod/db", key=KEY, revision=1),
    lambda vault: vault.read_if_changed("prod/db", key=KEY, known_revision=1),
    lambda vault: vault.read_many({"prod/db": KEY}),
    lambda vault: vault.update("prod/db", b"x", key=KEY),  # reads first
    lambda vault: vault.rotate_key("prod/db", key=KEY, new_key=OTHER),
    lambda vault: vault.restore("prod/db", key=KEY, revision=1),
    lambda vault: vault.revisions("prod/db"),
    lambda vault: anext(vault.list("prod/")),
    lambda vault: vault.rewrap_key(KEY),
    lambda vault: vault.unwrap_key(KEY),
    lambda vault: vault.whoami(),
)
MUTATIONS: tuple[Callable[[KeyVault], Awaitable[object]], ...] = (
    lambda vault: vault.create("prod/db", b"x", key=KEY),
    lambda vault: vault.update("prod/db", b"x", key=KEY, revision=1),
    lambda vault: vault.delete("prod/db", key=KEY, revision=1),
)


class Silent:
    """A channel that is connected and never ends a call. `status`: what a call raises instead of CancelledError."""

    def __init__(self, status: grpc.StatusCode | None = None) -> None:
        self._status = status
        self.sent = asyncio.Event()

    def get_state(self, *, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return grpc.ChannelConnectivity.READY

    def unary_unary(self, *_: object, **__: object) -> Callable[..., Awaitable[Any]]:
        return self._call

    async def _call(self, *_: object, **__: object) -> Any:
        self.sent.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if self._status is None:
                raise
            metadata = grpc.aio.Metadata()
            raise grpc.aio.AioRpcError(self._status, metadata, metadata, "late") from None

    async def close(self) -> None:
        pass


@pytest.fixture(params=[None, grpc.StatusCode.DEADLINE_EXCEEDED], ids=["silent", "late"])
def silent(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Silent:
    """The channel that every client gets."""
    channel = Silent(request.param)
    monkeypatch.setattr(grpc.aio, "insecure_channel", lambda *_, **__: channel)
    return channel


async def failure(call: Awaitable[object]) -> BaseException:
    """What a call raises, within its timeout and the grace."""
    began = asyncio.get_running_loop().time()
    with pytest.raises((KeyVaultError, asyncio.CancelledError)) as raised:
        await call
    assert asyncio.get_running_loop().time() - began < GRACE_SECONDS + 1
    return raised.value


@pytest.mark.slow
async def test_a_call_that_grpc_never_ends_has_its_error(silent: Silent) -> None:
    before = asyncio.all_tasks()
    vault = KeyVault("127.0.0.1:1", timeout=0.3)
    errors = await asyncio.gather(*(failure(call(vault)) for call in (*READS, *MUTATIONS)))
    assert [type(error) for error in errors] == [Unavailable] * len(READS) + [OutcomeUnknown] * len(MUTATIONS)
    assert asyncio.all_tasks() == before


async def test_a_cancelled_call_ends_at_once(silent: Silent) -> None:
    """In the moment of a cancellation gRPC may raise a status that has just come, and not CancelledError."""
    before = asyncio.all_tasks()
    for method in (READS[0], MUTATIONS[0]):
        silent.sent.clear()
        call = asyncio.ensure_future(method(KeyVault("127.0.0.1:1", timeout=60)))
        await silent.sent.wait()
        call.cancel()
        assert isinstance(await failure(call), asyncio.CancelledError)
    assert asyncio.all_tasks() == before


@pytest.mark.slow
async def test_a_call_in_a_cancelled_task_reports_as_any(silent: Silent) -> None:
    """A task that cleans up after its cancellation may still make calls."""

    async def clean_up() -> BaseException:
        vault = KeyVault("127.0.0.1:1", timeout=0.1)
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return await failure(MUTATIONS[0](vault))
        raise AssertionError

    task = asyncio.ensure_future(clean_up())
    await asyncio.sleep(0)
    task.cancel()
    assert isinstance(await task, OutcomeUnknown)


@pytest.mark.slow
async def test_short_deadlines_and_cancellations_end_every_call(server: Served) -> None:
    """Raw calls of gRPC have failed to return here: fresh channels, deadlines of 1 to 5 ms, cancellations."""
    chance, outcomes = random.Random(1), Counter[type]()

    async def call(mutation: bool) -> None:
        async with KeyVault(server.address, timeout=chance.uniform(0.001, 0.005)) as vault:
            await (vault.create("prod/none", b"x", key=KEY) if mutation else vault.read("prod/none", key=KEY))

    for number in range(20):
        calls = [asyncio.ensure_future(call(mutation=bool(one % 2))) for one in range(20)]
        for one in calls[::3]:
            asyncio.get_running_loop().call_later(chance.uniform(0, 0.005), one.cancel)
        done, late = await asyncio.wait(calls, timeout=GRACE_SECONDS + 5)
        assert not late, f"round {number}: {late}"
        outcomes.update(asyncio.CancelledError if one.cancelled() else type(one.exception()) for one in done)
    assert set(outcomes) <= {asyncio.CancelledError, Unavailable, OutcomeUnknown, NotFound, InvalidRequest}
    assert outcomes[asyncio.CancelledError]
    assert outcomes[Unavailable]
    left = [one for one in map(repr, asyncio.all_tasks()) if "UnaryUnaryCall" in one or "Transport" in one]
    assert not left
