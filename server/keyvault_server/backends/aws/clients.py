"""Opens the AWS backend: one client of each service for the life of the process, and the checks at start.

The rule of this file: a server that answers us has shown a certificate for the host's name. aiobotocore before 3.9
does not check the name, and behind an HTTPS_PROXY it checks nothing at all. This file fixes both, also for the clients
that the SDK makes by itself to fetch credentials.
"""

import re
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import aioboto3
from aiobotocore.config import AioConfig
from aiobotocore.httpsession import AIOHTTPSession
from aiobotocore.session import AioSession
from botocore.exceptions import BotoCoreError, NoRegionError

from keyvault_api.address import is_loopback
from keyvault_server.backends.aws.breaker import Breaker
from keyvault_server.backends.aws.calls import AwsClient
from keyvault_server.backends.aws.connections import ConnectionPool
from keyvault_server.backends.aws.dynamodb import DynamoRecordStore
from keyvault_server.backends.aws.kms import KmsKeyService
from keyvault_server.backends.aws.table import refuse_unsafe_table
from keyvault_server.core.errors import OperatorError

SILENCE = 0.2
"""Fraction of a call's time limit after which an attempt on a silent connection is given up."""
_KEY_ARN = re.compile(r"arn:[a-z-]+:kms:([a-z0-9-]+):[0-9]+:key/[A-Za-z0-9-]+", re.ASCII)


class BadAwsSettings(OperatorError):
    """The settings of the AWS backend cannot be used; the message says which and why."""


@dataclass(frozen=True, slots=True)
class AwsOptions:
    """Settings of the AWS backend; the SDK finds the credentials."""

    region: str | None
    """AWS region; None for the one that the SDK finds."""
    table: str
    """Name of the DynamoDB table."""
    master_keys: dict[str, str]
    """KMS key ARN by label; the first mints, every one unwraps."""
    kms_endpoint: str | None
    """URL of KMS; None for the region's."""
    dynamodb_endpoint: str | None
    """URL of DynamoDB; None for the region's."""
    ca_bundle: str | None
    """Path of a file of PEM roots; None for those that the SDK trusts."""
    call_timeout: float
    """Seconds of one call, including its retries and the wait for a connection."""
    max_connections: int
    """Maximum connections to each service."""


@asynccontextmanager
async def open_aws(options: AwsOptions) -> AsyncIterator[tuple[KmsKeyService, DynamoRecordStore]]:
    """Open both ports while the body runs. Raises OperatorError for unusable settings or an unsafe table."""
    _refuse_bad_master_keys(options.master_keys)
    async with open_clients(options) as (kms, dynamodb):
        _refuse_other_regions(options.master_keys, kms.region)
        await refuse_unsafe_table(dynamodb, options.table)
        yield KmsKeyService(kms, options.master_keys), DynamoRecordStore(dynamodb, options.table)


@asynccontextmanager
async def open_clients(options: AwsOptions, *, log: bool = True) -> AsyncIterator[tuple[AwsClient, AwsClient]]:
    """Open the clients of KMS and DynamoDB while the body runs; with `log`, they log failures. Raises OperatorError."""
    botocore_session = AioSession()
    botocore_session.set_default_client_config(_config(options))
    session = aioboto3.Session(region_name=options.region, botocore_session=botocore_session)
    async with AsyncExitStack() as stack:
        opened = []
        for service, endpoint in (("kms", options.kms_endpoint), ("dynamodb", options.dynamodb_endpoint)):
            try:
                client: Any = await stack.enter_async_context(
                    session.client(service, endpoint_url=endpoint, verify=options.ca_bundle)
                )
            except NoRegionError:
                raise BadAwsSettings("no AWS region is configured: set KEYVAULT_AWS_REGION") from None
            except (BotoCoreError, ValueError) as error:  # a bad profile, a bad endpoint; the text may quote a setting
                raise BadAwsSettings(
                    f"cannot make a client of AWS {service}: {type(error).__name__}: check its endpoint and AWS_PROFILE"
                ) from None
            _refuse_plaintext(service, client.meta.endpoint_url)
            silence = options.call_timeout * SILENCE
            connections = ConnectionPool(options.max_connections, options.call_timeout, silence, Breaker(service))
            stack.push_async_callback(connections.aclose)
            opened.append(AwsClient(client, options.call_timeout, connections, log=log))
        yield opened[0], opened[1]


class VerifyingSession(AIOHTTPSession):  # type: ignore[misc]
    """The SDK's HTTP session, with TLS that checks the certificate and its host name, also behind a proxy."""

    def _get_ssl_context(self) -> ssl.SSLContext:
        context: ssl.SSLContext = super()._get_ssl_context()
        context.verify_mode = ssl.CERT_REQUIRED
        context.check_hostname = True
        return context

    def _setup_proxy_ssl_context(self, proxy_url: str) -> ssl.SSLContext:
        """Return the TLS context for the server behind the proxy; the SDK's own would check nothing."""
        return super()._setup_proxy_ssl_context(proxy_url) or self._get_ssl_context()


class VerifyingConfig(AioConfig):  # type: ignore[misc]
    """A configuration that keeps the verifying session when the SDK merges another one into it."""

    def __init__(self, connector_args: Mapping[str, Any] | None = None, **options: Any) -> None:
        super().__init__(connector_args, VerifyingSession, **options)

    def merge(self, other_config: Any) -> "VerifyingConfig":
        """See botocore.config.Config; aiobotocore's `merge` loses the session's class."""
        return VerifyingConfig(self.connector_args, **super().merge(other_config)._user_provided_options)


def _config(options: AwsOptions) -> VerifyingConfig:
    silence = options.call_timeout * SILENCE
    return VerifyingConfig(
        retries={"total_max_attempts": 1},  # a retried write would fail the condition that its first attempt met
        connect_timeout=silence,
        read_timeout=silence,
        max_pool_connections=options.max_connections,
        user_agent="keyvault",  # a fixed one saves a seventh of a call's CPU time
    )


def _refuse_plaintext(service: str, endpoint: str) -> None:
    """Refuse http to another machine: KMS answers with plaintext data keys.

    The endpoint comes from our settings, the region, or the SDK's own AWS_ENDPOINT_URL.
    """
    parts = urlsplit(endpoint)
    if parts.scheme != "https" and not is_loopback(f"[{parts.hostname}]:0"):
        raise BadAwsSettings(
            f"{parts.scheme}://{parts.hostname}: the endpoint of AWS {service} must be https: data keys cross it"
        )


def _refuse_bad_master_keys(master_keys: Mapping[str, str]) -> None:
    if not master_keys:
        raise BadAwsSettings('KEYVAULT_AWS_MASTER_KEYS: no master key: set it to {"label": "KMS key ARN"}')
    for label, arn in master_keys.items():
        if not 1 <= len(label.encode(errors="replace")) <= 255 or not label.isprintable():
            raise BadAwsSettings(
                f"KEYVAULT_AWS_MASTER_KEYS: label {label!a}: must be 1 to 255 bytes of printable UTF-8"
            )
        if not _KEY_ARN.fullmatch(arn):
            raise BadAwsSettings(
                f"KEYVAULT_AWS_MASTER_KEYS: {label}: {arn!a} is not a whole key ARN, arn:aws:kms:region:account:key/id"
            )


def _refuse_other_regions(master_keys: Mapping[str, str], region: str) -> None:
    for label, arn in master_keys.items():
        if arn.split(":")[3] != region:
            raise BadAwsSettings(
                f"KEYVAULT_AWS_MASTER_KEYS: {label}: {arn} is in another region than the server, {region}"
            )
