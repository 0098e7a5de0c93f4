"""Opens the AWS backend: one client of each service for the life of the process, and the checks at start.

The rule of this file: what is wrong with settings, profile or credentials is said here, in one line, before the first
call.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, contextmanager
from typing import Any

import aioboto3
from botocore.exceptions import BotoCoreError

from keyvault_server.backends.aws.breaker import Breaker
from keyvault_server.backends.aws.calls import AwsClient
from keyvault_server.backends.aws.connections import ConnectionPool
from keyvault_server.backends.aws.credential_chain import CredentialChain, new_session
from keyvault_server.backends.aws.credentials import Credentials
from keyvault_server.backends.aws.dynamodb import DynamoRecordStore
from keyvault_server.backends.aws.faults import cause_of
from keyvault_server.backends.aws.kms import KmsKeyService
from keyvault_server.backends.aws.options import (
    AwsOptions,
    BadAwsSettings,
    choose_region,
    refuse_bad_endpoints,
    refuse_bad_master_keys,
    refuse_plaintext,
)
from keyvault_server.backends.aws.signing import sign_quickly
from keyvault_server.backends.aws.table import refuse_unsafe_table
from keyvault_server.backends.aws.tls import VerifyingConfig
from keyvault_server.core.meter import Meter

SILENCE = 0.2
"""Fraction of a call's time limit after which an attempt on a silent connection is given up."""


@asynccontextmanager
async def open_aws(
    options: AwsOptions, meter: Meter | None = None
) -> AsyncIterator[tuple[KmsKeyService, DynamoRecordStore]]:
    """Open both ports while the body runs; `meter` shows what is left to `keyvault-server sweep`.

    Raises OperatorError for unusable settings or an unsafe table.
    """
    refuse_bad_master_keys(options.master_keys)
    async with open_clients(options) as (kms, dynamodb):
        await refuse_unsafe_table(dynamodb, options.table)
        async with aclosing(DynamoRecordStore(dynamodb, options.table)) as records:
            if meter is not None:
                description = "Copies of earlier revisions that were not removed."
                meter.counters("copies_not_removed", description, "reason", records.copies_not_removed)
            yield KmsKeyService(kms, options.master_keys), records


@asynccontextmanager
async def open_clients(options: AwsOptions, *, log: bool = True) -> AsyncIterator[tuple[AwsClient, AwsClient]]:
    """Open the clients of KMS and DynamoDB while the body runs; with `log`, they log failures.

    Raises OperatorError, also if there are no credentials.
    """
    refuse_bad_endpoints(options)
    with _explained("AWS settings"):
        session = new_session()
        region = choose_region(options, session.get_config_variable("region"))
        session.set_config_variable("region", region)
    async with AsyncExitStack() as stack:
        credentials = Credentials(CredentialChain(region).fetch, log=log)
        stack.push_async_callback(credentials.aclose)
        await credentials.ready()
        session.register_component("credential_provider", _Provider(credentials))
        session.set_default_client_config(_config(options))
        opened = []
        for service, endpoint in (("kms", options.kms_endpoint), ("dynamodb", options.dynamodb_endpoint)):
            with _explained(f"cannot make a client of AWS {service}"):
                made = aioboto3.Session(botocore_session=session).client(
                    service, endpoint_url=endpoint, verify=options.ca_bundle
                )
                client: Any = await stack.enter_async_context(made)
            refuse_plaintext(service, client.meta.endpoint_url)
            sign_quickly(client)
            silence = options.call_timeout * SILENCE
            connections = ConnectionPool(options.max_connections, options.call_timeout, silence, Breaker(service))
            stack.push_async_callback(connections.aclose)
            opened.append(AwsClient(client, credentials, options.call_timeout, connections, log=log))
        yield opened[0], opened[1]


class _Provider:
    """Hands the SDK our credentials in place of its own chain."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials

    async def load_credentials(self) -> Credentials:
        """See botocore.credentials.CredentialResolver."""
        return self._credentials


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Turn the SDK's objection to its settings into BadAwsSettings."""
    try:
        yield
    except BotoCoreError as error:
        raise BadAwsSettings(f"{what}: {cause_of(error)}") from None
    except ValueError as error:
        hint = "check AWS_ENDPOINT_URL and the AWS config file" if "endpoint" in str(error) else cause_of(error)
        raise BadAwsSettings(f"{what}: {hint}") from None


def _config(options: AwsOptions) -> VerifyingConfig:
    silence = options.call_timeout * SILENCE
    return VerifyingConfig(
        retries={"total_max_attempts": 1},  # a retried write would fail the condition that its first attempt met
        connect_timeout=silence,
        read_timeout=silence,
        max_pool_connections=options.max_connections,
        user_agent="keyvault",  # a fixed one saves a seventh of a call's CPU time
        parameter_validation=False,  # what is not valid, AWS refuses; to look at each of many keys takes long
    )
