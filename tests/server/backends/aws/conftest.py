"""A certificate authority for tests of TLS; both ports on our own stand-ins, with a fault proxy before each service."""

import dataclasses
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

import pytest

from keyvault_server.backends.aws.clients import open_aws
from keyvault_server.backends.aws.dynamodb import DynamoRecordStore
from keyvault_server.backends.aws.kms import KmsKeyService
from keyvault_server.backends.aws.options import AwsOptions
from tests.server.backends.aws.fault_proxy import FaultProxy, fault_proxy
from tests.server.backends.aws.standins.account import Account
from tests.server.backends.aws.stub import authority  # noqa: F401


@dataclass(frozen=True)
class Line:
    """Both ports, and the way to each service."""

    keys: KmsKeyService
    records: DynamoRecordStore
    kms: FaultProxy
    dynamodb: FaultProxy


OpenLine = Callable[..., AbstractAsyncContextManager[Line]]


@pytest.fixture(scope="session")
def open_line(standins: Account, standin_options: AwsOptions) -> OpenLine:
    """Open a Line, with other options if a test gives them; its clients and their retry budgets are new."""

    @asynccontextmanager
    async def opened(**changed: float) -> AsyncIterator[Line]:
        async with fault_proxy(standins.kms_address) as kms, fault_proxy(standins.dynamodb_address) as dynamodb:
            there = {"kms_endpoint": kms.address, "dynamodb_endpoint": dynamodb.address}
            given = dataclasses.replace(standin_options, **there, **changed)  # type: ignore[arg-type]
            async with open_aws(given) as (keys, records):
                dynamodb.requests.clear()
                yield Line(keys, records, kms, dynamodb)

    return opened


@pytest.fixture
async def fresh_line(open_line: OpenLine) -> AsyncIterator[Line]:
    """A Line whose retry budgets are full."""
    async with open_line() as opened:
        yield opened


@pytest.fixture(scope="module")
async def shared_line(open_line: OpenLine) -> AsyncIterator[Line]:
    async with open_line() as opened:
        yield opened


@pytest.fixture
def line(shared_line: Line) -> Iterator[Line]:
    """The Line of the module, since a client takes time to make; it is healed after each test."""
    yield shared_line
    shared_line.kms.heal()
    shared_line.dynamodb.heal()
