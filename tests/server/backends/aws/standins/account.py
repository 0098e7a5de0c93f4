"""An AWS account with both services on loopback."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from tests.server.backends.aws.standins.dynamodb import StandInDynamoDb
from tests.server.backends.aws.standins.kms import StandInKms


@dataclass(frozen=True, slots=True)
class Account:
    """Both services, with their knobs, and where they listen."""

    kms: StandInKms
    dynamodb: StandInDynamoDb
    kms_address: str
    dynamodb_address: str


@asynccontextmanager
async def account(dynamodb: StandInDynamoDb | None = None) -> AsyncIterator[Account]:
    """Run both services while the body runs."""
    kms, dynamodb = StandInKms(), dynamodb or StandInDynamoDb()
    async with kms.running() as kms_port, dynamodb.running() as dynamodb_port:
        yield Account(kms, dynamodb, f"http://127.0.0.1:{kms_port}", f"http://127.0.0.1:{dynamodb_port}")
