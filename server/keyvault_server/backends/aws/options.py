"""The settings of the AWS backend, and what of them can be refused before AWS is asked.

The rule of this file: a refusal names the variable and the value that the operator wrote.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from keyvault_api.address import is_loopback
from keyvault_server.core.errors import OperatorError

_KEY_ARN = re.compile(r"arn:[a-z-]+:kms:([a-z0-9-]+):[0-9]+:key/[A-Za-z0-9-]+", re.ASCII)


class BadAwsSettings(OperatorError):
    """The settings of the AWS backend cannot be used; the message says which and why."""


@dataclass(frozen=True, slots=True)
class AwsOptions:
    """Settings of the AWS backend; the SDK finds the credentials."""

    region: str | None
    """AWS Region; None for that of the master keys, else the one that the SDK finds."""
    table: str
    """Name of the DynamoDB table."""
    master_keys: dict[str, str]
    """KMS key ARN by label; the first mints, every one unwraps."""
    kms_endpoint: str | None
    """URL of KMS; None for the Region's."""
    dynamodb_endpoint: str | None
    """URL of DynamoDB; None for the Region's."""
    ca_bundle: str | None
    """Path of a file of PEM roots; None for those that the SDK trusts."""
    call_timeout: float
    """Seconds of one call, including its retries and the wait for a connection."""
    max_connections: int
    """Maximum connections to each service."""


def refuse_bad_master_keys(master_keys: Mapping[str, str]) -> None:
    """Refuse none at all, a label that does not fit into a wrapped key, and what is not a whole key ARN."""
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


def choose_region(options: AwsOptions, found: str | None) -> str:
    """Return the one Region: the setting's, else that of the master keys, else what the SDK found.

    Raises BadAwsSettings if there is none, or if they disagree: the records would be in a Region that nobody meant.
    """
    arns = {label: _KEY_ARN.fullmatch(arn) for label, arn in options.master_keys.items()}
    regions = {label: arn[1] for label, arn in arns.items() if arn}
    region = options.region or found or next(iter(regions.values()), None)
    if region is None:
        raise BadAwsSettings("no AWS Region is configured: set KEYVAULT_AWS_REGION or AWS_REGION")
    for label, other in regions.items():
        if other != region:
            source = "KEYVAULT_AWS_REGION" if options.region else "AWS_REGION, AWS_DEFAULT_REGION or the AWS profile"
            if not (options.region or found):
                source = f"master key {next(iter(regions))}"
            raise BadAwsSettings(
                f"KEYVAULT_AWS_MASTER_KEYS: {label}: {options.master_keys[label]} is in another region than {region}"
                f" of {source}: set KEYVAULT_AWS_REGION to the Region of all master keys and of the table"
            )
    return region


def refuse_bad_endpoints(options: AwsOptions) -> None:
    """Refuse an endpoint of the settings that is not a URL."""
    for name in ("kms_endpoint", "dynamodb_endpoint"):
        url: str | None = getattr(options, name)
        if url is not None and not _is_url(url):
            raise BadAwsSettings(f"KEYVAULT_AWS_{name.upper()}: {url!a}: must be a URL, such as https://HOST:PORT")


def refuse_plaintext(service: str, endpoint: str) -> None:
    """Refuse http to another machine: KMS answers with plaintext data keys.

    The endpoint comes from our settings, the Region, or the SDK's own AWS_ENDPOINT_URL.
    """
    parts = urlsplit(endpoint)
    if parts.scheme != "https" and not is_loopback(f"[{parts.hostname}]:0"):
        raise BadAwsSettings(
            f"{parts.scheme}://{parts.hostname}: the endpoint of AWS {service} must be https: data keys cross it"
        )


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is none, half an IPv6 address
        return False
