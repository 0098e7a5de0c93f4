"""Stand-ins for AWS: our own, moto in a thread, dynalite (another independent DynamoDB) as a process. Loopback only.

Where the stand-ins differ from AWS, the test that meets the difference says so.
"""

import dataclasses
import json
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import pytest

from keyvault_server.backends.aws.calls import AwsClient
from keyvault_server.backends.aws.clients import open_aws, open_clients
from keyvault_server.backends.aws.dynamodb import DynamoRecordStore
from keyvault_server.backends.aws.kms import KmsKeyService
from keyvault_server.backends.aws.options import AwsOptions
from keyvault_server.backends.aws.setup import create_backend
from tests.server.backends.aws.standins.account import Account, account
from tests.support.tools import tool

REGION = "eu-central-1"
_START_DYNALITE = """
const server = require(process.argv[1])({ createTableMs: 20, deleteTableMs: 20 })
server.keepAliveTimeout = 0 // or Node ends idle connections after five seconds, also one that is just used again
server.listen(0, '127.0.0.1', () => console.log(server.address().port))
"""


def options(kms: str | None, dynamodb: str | None, **changed: object) -> AwsOptions:
    """Return options for tests; those in `changed` replace the defaults."""
    given: dict[str, object] = {
        "region": REGION,
        "table": "keyvault",
        "master_keys": {},
        "kms_endpoint": kms,
        "dynamodb_endpoint": dynamodb,
        "ca_bundle": None,
        "call_timeout": 120.0,  # a fifth of it is for an attempt, and moto on a busy machine is slow
        "max_connections": 16,
    }
    return AwsOptions(**given | changed)  # type: ignore[arg-type]


def variables_of(backend: AwsOptions) -> dict[str, str]:
    """Return the variables by which an operator names this backend."""
    return {
        "KEYVAULT_BACKEND": "aws",
        "KEYVAULT_AWS_REGION": str(backend.region),
        "KEYVAULT_AWS_TABLE": backend.table,
        "KEYVAULT_AWS_MASTER_KEYS": json.dumps(dict(backend.master_keys)),
        "KEYVAULT_AWS_KMS_ENDPOINT": str(backend.kms_endpoint),
        "KEYVAULT_AWS_DYNAMODB_ENDPOINT": str(backend.dynamodb_endpoint),
    }


@contextmanager
def stand_in_identity() -> Iterator[None]:
    """Set an identity that only stand-ins accept, and hide the machine's own AWS settings."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("AWS_CONFIG_FILE", os.devnull)
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
        yield


@pytest.fixture(scope="session")
def aws_identity() -> Iterator[None]:
    """See stand_in_identity."""
    with stand_in_identity():
        yield


@pytest.fixture(scope="session")
def moto(aws_identity: None) -> Iterator[str]:
    """The address of a moto server with KMS and DynamoDB."""
    from moto.server import ThreadedMotoServer  # here: the wheel is tried without tools of development

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="session")
def dynalite(aws_identity: None) -> Iterator[str]:
    """The address of a dynalite, in memory."""
    with dynalite_process() as address:
        yield address


@contextmanager
def dynalite_process() -> Iterator[str]:
    """Run dynalite while the body runs; yield its address."""
    package = tool("dynalite", "dynalite/node_modules/dynalite")
    with subprocess.Popen(["node", "-e", _START_DYNALITE, package], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.terminate()


@pytest.fixture(scope="session")
async def moto_options(moto: str) -> AwsOptions:
    """A backend on moto, made by `create_backend`."""
    made = options(moto, moto)
    return options(moto, moto, master_keys={"1": await create_backend(made, "alias/keyvault")})


@pytest.fixture(scope="session")
async def aws(moto_options: AwsOptions) -> AsyncIterator[tuple[KmsKeyService, DynamoRecordStore]]:
    """Both ports on moto."""
    async with open_aws(moto_options) as ports:
        yield ports


@pytest.fixture(scope="session")
async def moto_clients(moto_options: AwsOptions) -> AsyncIterator[tuple[AwsClient, AwsClient]]:
    """Clients of KMS and DynamoDB on moto, in addition to the ports."""
    async with open_clients(moto_options) as clients:
        yield clients


@pytest.fixture(scope="session")
async def dynalite_store(moto_options: AwsOptions, moto: str, dynalite: str) -> AsyncIterator[DynamoRecordStore]:
    """A record store on dynalite; its KMS is moto."""
    both = options(moto, dynalite, master_keys=moto_options.master_keys)
    await create_backend(both, "alias/keyvault")
    async with open_aws(both) as (_, records):
        yield records


@pytest.fixture(scope="session")
async def standins(aws_identity: None) -> AsyncIterator[Account]:
    """Our own KMS and DynamoDB."""
    async with account() as made:
        yield made


@pytest.fixture(scope="session")
async def standin_options(standins: Account) -> AwsOptions:
    """A backend on our own stand-ins, made by `create_backend`."""
    made = options(standins.kms_address, standins.dynamodb_address)
    return dataclasses.replace(made, master_keys={"1": await create_backend(made, "alias/keyvault")})


@pytest.fixture(scope="session")
async def standin_clients(standin_options: AwsOptions) -> AsyncIterator[tuple[AwsClient, AwsClient]]:
    """Clients of KMS and DynamoDB on our own stand-ins."""
    async with open_clients(standin_options) as clients:
        yield clients


@pytest.fixture(scope="session")
async def standin_store(standin_options: AwsOptions) -> AsyncIterator[DynamoRecordStore]:
    """A record store on our own DynamoDB."""
    async with open_aws(standin_options) as (_, records):
        yield records
