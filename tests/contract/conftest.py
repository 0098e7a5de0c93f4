"""The implementations on which the contract suites run."""

import copy
import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from keyvault_server.backends.aws.calls import AwsClient
from keyvault_server.backends.aws.clients import open_aws
from keyvault_server.backends.aws.dynamodb import DynamoRecordStore
from keyvault_server.backends.aws.kms import KmsKeyService
from keyvault_server.backends.aws.options import AwsOptions
from keyvault_server.backends.embedded.keyring import Keyring
from keyvault_server.backends.embedded.sqlite import SqliteStore, open_store
from keyvault_server.core.ports import KeyService, RecordStore
from tests.support.fakes import FakeKeyService, FakeRecordStore

KeyServices = tuple[KeyService, KeyService]
ATOMIC = ("fake_store", "sqlite_store", "standin_store", pytest.param("dynalite_store", marks=pytest.mark.external))
"""Where writers may be made to race: moto evaluates conditions without a lock."""
HONEST = ("fake_keys", "keyring", "standin_keys")
"""moto answers AccessDenied to Decrypt with another KeyId, and ReEncrypt does not look at SourceKeyId."""


@pytest.fixture
def fake_store() -> FakeRecordStore:
    return FakeRecordStore()


@pytest.fixture
async def sqlite_store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    async with open_store(tmp_path / "records.sqlite3") as store:
        yield store


@pytest.fixture
def moto_store(aws: tuple[KmsKeyService, DynamoRecordStore]) -> DynamoRecordStore:
    return aws[1]


@pytest.fixture(params=[*ATOMIC, pytest.param("moto_store", marks=pytest.mark.external)])
def store(request: pytest.FixtureRequest) -> RecordStore:
    """Every RecordStore."""
    made: RecordStore = request.getfixturevalue(request.param)
    return made


@pytest.fixture(params=ATOMIC)
def atomic_store(request: pytest.FixtureRequest) -> RecordStore:
    """Every RecordStore on an engine that evaluates conditions one after the other."""
    made: RecordStore = request.getfixturevalue(request.param)
    return made


@pytest.fixture
def fake_keys() -> KeyServices:
    before = FakeKeyService("1")
    after = copy.deepcopy(before)
    after.add("2")
    return before, after


@pytest.fixture
def keyring(tmp_path: Path) -> KeyServices:
    return Keyring.create(tmp_path / "keyring.json"), Keyring.rotate(tmp_path / "keyring.json")


@pytest.fixture(scope="session")
async def kms(moto_options: AwsOptions, moto_clients: tuple[AwsClient, AwsClient]) -> AsyncIterator[KeyServices]:
    async with before_and_after(moto_options, moto_clients[0]) as services:
        yield services


@pytest.fixture(scope="session")
async def standin_keys(
    standin_options: AwsOptions, standin_clients: tuple[AwsClient, AwsClient]
) -> AsyncIterator[KeyServices]:
    async with before_and_after(standin_options, standin_clients[0]) as services:
        yield services


@asynccontextmanager
async def before_and_after(options: AwsOptions, client: AwsClient) -> AsyncIterator[KeyServices]:
    second = (await client.call("create_key"))["KeyMetadata"]["Arn"]
    rotated = dataclasses.replace(options, master_keys={"2": second} | options.master_keys)
    async with open_aws(options) as (before, _), open_aws(rotated) as (after, _):
        yield before, after


@pytest.fixture(params=HONEST)
def honest_key_services(request: pytest.FixtureRequest) -> KeyServices:
    """Every KeyService that refuses a blob of another master key as KMS does."""
    made: KeyServices = request.getfixturevalue(request.param)
    return made


@pytest.fixture(params=[*HONEST, pytest.param("kms", marks=pytest.mark.external)])
def key_services(request: pytest.FixtureRequest) -> KeyServices:
    """Every KeyService, before and after a new master key was put first."""
    made: KeyServices = request.getfixturevalue(request.param)
    return made
