"""Figures of a server in trouble: connections that impatient callers cost, recovery, waits for a connection.

The rule of this file: a figure is measured with and without what it is about where that can be had, in one run.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import aioboto3
from aiobotocore.config import AioConfig

from keyvault_api.v1 import keyvault_pb2 as pb
from keyvault_server.backends.aws import breaker
from tests.server.backends.aws.fault_proxy import FAULTS, Fault, fault_proxy
from tests.server.backends.aws.site import Site, master_key, site, status_of
from tests.server.backends.aws.standins.account import account
from tests.support.engines import REGION
from tests.support.requests import Key, create, mint, update

CALL_SECONDS = 5.0
"""The default of KEYVAULT_AWS_CALL_SECONDS."""
CONNECTIONS = 16
WAVES, WAVE = 5, 100
IMPATIENCE = 0.3
SLOW = Fault(delay=0.6)
"""Later than callers wait, sooner than an attempt is given up."""
BLACK_HOLE = FAULTS["black hole before the effect"]
RECOVERED_FROM = ("black hole before the effect", "reset before the effect", "500 before the effect", "throttling")
NAME = "prod/figures"


@dataclass(frozen=True)
class Cancelled:
    """What callers who left before an answer cost."""

    calls: int
    connections: int

    @property
    def each(self) -> float:
        """Connections opened per cancelled call."""
        return self.connections / self.calls


async def cancelled_calls(fault: Fault) -> Cancelled:
    """Send Reads through the server in waves, each with a deadline before the answer; return what they cost."""
    async with site(CALL_SECONDS, CONNECTIONS, history=0) as opened:
        before = opened.connections
        opened.dynamodb.break_with(fault)
        statuses = await _waves(lambda: status_of(_read(opened, IMPATIENCE)))
        return Cancelled(statuses["DEADLINE_EXCEEDED"], opened.connections - before)


async def cancelled_calls_of_the_sdk(fault: Fault) -> Cancelled:
    """Make as many calls with the SDK alone, each cancelled by its caller; return what they cost."""
    async with account() as made, fault_proxy(made.dynamodb_address) as proxy:
        await master_key(made)
        proxy.break_with(fault)
        async with _sdk(proxy.address) as client:
            key = {"pk": {"S": "x"}}
            outcomes = await _waves(lambda: _cancelled(client.get_item(TableName="keyvault", Key=key)))
        return Cancelled(outcomes["cancelled"], proxy.connections)


@asynccontextmanager
async def _sdk(address: str) -> AsyncIterator[Any]:
    config = AioConfig(max_pool_connections=CONNECTIONS, retries={"total_max_attempts": 1})
    session = aioboto3.Session(region_name=REGION)
    async with session.client("dynamodb", endpoint_url=address, config=config) as client:
        yield client


async def _cancelled(call: Awaitable[object]) -> str:
    try:
        async with asyncio.timeout(IMPATIENCE):
            await call
    except TimeoutError:
        return "cancelled"
    return "answered"


async def _waves(call: Callable[[], Awaitable[str]]) -> Counter[str]:
    outcomes: Counter[str] = Counter()
    for _ in range(WAVES):
        outcomes.update(await asyncio.gather(*(call() for _ in range(WAVE))))
    return outcomes


async def recovery(fault: Fault, seconds: float = 3.0) -> float:
    """Return the seconds from the end of a fault of both services until every caller had an OK."""
    async with site(CALL_SECONDS, CONNECTIONS, history=0) as opened:
        key = await _stored(opened)
        opened.break_with(fault)
        healed: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        callers = [asyncio.create_task(_until_ok(opened, key, healed, number)) for number in range(24)]
        await asyncio.sleep(seconds)
        opened.heal()
        healed.set_result(time.monotonic())
        return max(await asyncio.gather(*callers))


async def _until_ok(opened: Site, key: Key, healed: "asyncio.Future[float]", number: int) -> float:
    rewrap = pb.RewrapKeyRequest(wrapped_key=key.wrapped)
    async with asyncio.timeout(60):
        while True:
            call = _read(opened, 2.0) if number % 2 else opened.stub.RewrapKey(rewrap, timeout=2.0)
            if await status_of(call) == "OK" and healed.done():
                return time.monotonic() - healed.result()
            await asyncio.sleep(0.05)


async def longest_wait(deadline: float = 1.0) -> tuple[float, Counter[str]]:
    """Send many more calls than connections to a slow backend; return the longest overrun in seconds, and statuses."""
    async with site(CALL_SECONDS, connections=4, history=0) as opened:
        await _stored(opened)
        opened.dynamodb.break_with(Fault(delay=0.3))

        async def read() -> tuple[float, str]:
            began = time.monotonic()
            status = await status_of(_read(opened, deadline))
            return time.monotonic() - began - deadline, status

        seen = await asyncio.gather(*(read() for _ in range(100)))
        return max(over for over, _ in seen), Counter(status for _, status in seen)


async def reads_during_a_hang_of_kms(*, rate: int = 75, seconds: float = 8.0) -> Counter[str]:
    """Return what Reads get while mutations hang on KMS; the server has a quarter of the default limits."""
    async with site(CALL_SECONDS, CONNECTIONS, concurrent_calls=64, history=0) as opened:
        key = await _stored(opened)
        opened.kms.break_with(BLACK_HOLE)
        request, reads, mutations = update(key, NAME, 2), [], []
        began = time.monotonic()
        for number in range(int(rate * seconds)):
            await asyncio.sleep(max(0, began + number / rate - time.monotonic()))
            mutations.append(asyncio.create_task(status_of(opened.stub.Update(request, timeout=CALL_SECONDS))))
            if len(mutations) % 5 == 0:
                reads.append(asyncio.create_task(status_of(_read(opened, CALL_SECONDS))))
        await asyncio.gather(*mutations)
        return Counter(await asyncio.gather(*reads))


@contextmanager
def no_breaker() -> Iterator[None]:
    """Keep the breaker from opening while the body runs: every call waits for its time-out."""
    silences, breaker.SILENCES = breaker.SILENCES, 10**9
    try:
        yield
    finally:
        breaker.SILENCES = silences


async def _stored(opened: Site) -> Key:
    key = await mint(opened.stub, "prod/")
    await opened.stub.Create(create(key, NAME))
    return key


def _read(opened: Site, deadline: float) -> Awaitable[Any]:
    return opened.stub.Read(pb.ReadRequest(key_id=NAME), timeout=deadline)
