"""Opens the AWS half: one client of each service for the life of the process, and the checks of a start.

The rule of this file: whoever answers has shown a certificate for the host's name. aiobotocore before 3.9 leaves
the name unchecked, and behind an HTTPS_PROXY it checks nothing at all; both is mended here, also for the clients that
the SDK makes by itself to fetch credentials.
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
from keyvault_server.backends.aws.connections import Connections
from keyvault_server.backends.aws.dynamodb import DynamoRecordStore
from keyvault_server.backends.aws.kms import KmsKeyService
from keyvault_server.backends.aws.table import refuse_unsafe_table
from keyvault_server.core.errors import OperatorError

SILENCE = 0.2
"""Of a call's time: a connection that says nothing for so long is given up."""
_KEY_ARN = re.compile(r"arn:[a-z-]+:kms:([a-z0-9-]+):[0-9]+:key/[A-Za-z0-9-]+", re.ASCII)


class BadAwsSettings(OperatorError):
    """The settings of the AWS backend cannot be used; one line says which and why."""


@dataclass(frozen=True, slots=True)
class AwsOptions:
    """What the AWS backend is told; credentials are what the SDK finds."""

    region: str | None
    """None: what the SDK finds."""
    table: str
    """The DynamoDB table."""
    master_keys: dict[str, str]
    """KMS key ARN by label; the first mints, every one unwraps."""
    kms_endpoint: str | None
    """Another endpoint than the region's."""
    dynamodb_endpoint: str | None
    """Another endpoint than the region's."""
    ca_bundle: str | None
    """File of PEM roots; None: what the SDK trusts."""
    call_timeout: float
    """Seconds of one call, its repetitions and the wait for a connection included."""
    max_connections: int
    """Connections to each service."""


@asynccontextmanager
async def open_aws(options: AwsOptions) -> AsyncIterator[tuple[KmsKeyService, DynamoRecordStore]]:
    """Both ports, open while the body runs. Raises OperatorError for settings or a table that cannot be served from."""
    _refuse_bad_master_keys(options.master_keys)
    async with open_clients(options) as (kms, dynamodb):
        _refuse_other_regions(options.master_keys, kms.region)
        await refuse_unsafe_table(dynamodb, options.table)
        yield KmsKeyService(kms, options.master_keys), DynamoRecordStore(dynamodb, options.table)


@asynccontextmanager
async def open_clients(options: AwsOptions, *, log: bool = True) -> AsyncIterator[tuple[AwsClient, AwsClient]]:
    """The clients of KMS and DynamoDB, which log what fails unless told not to. Raises OperatorError."""
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
                raise BadAwsSettings("no AWS region is set: set KEYVAULT_AWS_REGION") from None
            except (BotoCoreError, ValueError) as error:  # a bad profile, a bad endpoint; the text may quote a setting
                raise BadAwsSettings(f"no client of AWS {service} can be made: {type(error).__name__}") from None
            _refuse_plaintext(service, client.meta.endpoint_url)
            silence = options.call_timeout * SILENCE
            connections = Connections(options.max_connections, options.call_timeout, silence, Breaker(service))
            stack.push_async_callback(connections.aclose)
            opened.append(AwsClient(client, options.call_timeout, connections, log=log))
        yield opened[0], opened[1]


class VerifyingSession(AIOHTTPSession):  # type: ignore[misc]
    """The SDK's HTTP session, whose TLS checks the certificate and its host name, with a proxy and without."""

    def _get_ssl_context(self) -> ssl.SSLContext:
        context: ssl.SSLContext = super()._get_ssl_context()
        context.verify_mode = ssl.CERT_REQUIRED
        context.check_hostname = True
        return context

    def _setup_proxy_ssl_context(self, proxy_url: str) -> ssl.SSLContext:
        """What the SDK answers here is used for the server behind the proxy; it answers "check nothing"."""
        return super()._setup_proxy_ssl_context(proxy_url) or self._get_ssl_context()


class VerifyingConfig(AioConfig):  # type: ignore[misc]
    """A configuration that keeps the verifying session when the SDK merges another one into it."""

    def __init__(self, connector_args: Mapping[str, Any] | None = None, **options: Any) -> None:
        super().__init__(connector_args, VerifyingSession, **options)

    def merge(self, other_config: Any) -> "VerifyingConfig":
        """See botocore.config.Config; the SDK's asynchronous one forgets the session's class."""
        return VerifyingConfig(self.connector_args, **super().merge(other_config)._user_provided_options)


def _config(options: AwsOptions) -> VerifyingConfig:
    silence = options.call_timeout * SILENCE
    return VerifyingConfig(
        retries={"total_max_attempts": 1},  # a retry of the SDK would fail the condition of its own first attempt
        connect_timeout=silence,
        read_timeout=silence,
        max_pool_connections=options.max_connections,
        user_agent="keyvault",  # a fixed one saves a seventh of the CPU of a call
    )


def _refuse_plaintext(service: str, endpoint: str) -> None:
    """KMS answers data keys in clear. The endpoint may be ours, the region's, or the SDK's own AWS_ENDPOINT_URL."""
    parts = urlsplit(endpoint)
    if parts.scheme != "https" and not is_loopback(f"[{parts.hostname}]:0"):
        raise BadAwsSettings(f"the endpoint of AWS {service} has to be https: who listens would have the data keys")


def _refuse_bad_master_keys(master_keys: Mapping[str, str]) -> None:
    if not master_keys:
        raise BadAwsSettings('no master key is named: set KEYVAULT_AWS_MASTER_KEYS to {"label": "KMS key ARN"}')
    for label, arn in master_keys.items():
        if not 1 <= len(label.encode(errors="replace")) <= 255 or not label.isprintable():
            raise BadAwsSettings("a label of KEYVAULT_AWS_MASTER_KEYS is 1 to 255 bytes of printable UTF-8")
        if not _KEY_ARN.fullmatch(arn):
            raise BadAwsSettings(f"master key {label}: give the whole key ARN, arn:aws:kms:region:account:key/id")


def _refuse_other_regions(master_keys: Mapping[str, str], region: str) -> None:
    for label, arn in master_keys.items():
        if arn.split(":")[3] != region:
            raise BadAwsSettings(f"master key {label} is in another region than {region}: the server asks one region")
