"""Settings: the only reader of the environment. Every variable is KEYVAULT_ and the field's name in capitals.

Unknown KEYVAULT_ variables are refused, but for those of the `keyvault` command. No setting is a secret, and an error
names the setting and the rule without its value.
"""

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, FilePath, PositiveFloat, PositiveInt, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from keyvault.address import is_loopback
from keyvault.names import is_key_id
from keyvault_server.errors import Refused

PREFIX = "KEYVAULT_"
CLIENT_VARIABLES = frozenset(
    PREFIX + name for name in ("ADDRESS", "TIMEOUT", "CA", "CERTIFICATE", "PRIVATE_KEY", "INSECURE")
)


class BadSettings(Refused):
    """The settings cannot be used; one line says which and why."""


def _address(text: str) -> str:
    host, separator, port = text.rpartition(":")
    if text.startswith("unix:") or (separator and host and port.isdecimal() and int(port) < 65536):
        return text
    raise ValueError("an address is host:port, [ipv6]:port or unix:/path")


def _exact_scope(scope: str) -> str:
    if not is_key_id(scope):
        raise ValueError("a scope is named exactly here: a key_id, no prefix and no wildcard")
    return scope


Address = Annotated[str, AfterValidator(_address)]


class Settings(BaseSettings):
    """All settings of `keyvault-server`, with their defaults."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True, hide_input_in_errors=True)

    backend: Literal["embedded", "aws"] = "embedded"
    """Where keys and records live: SQLite and a keyring in `data`, or AWS KMS and DynamoDB."""
    data: Path = Path("~/.local/share/keyvault")
    """The embedded backend's directory."""
    listen: Address = "127.0.0.1:50051"
    """Where the service listens; port 0 takes a free one. Off loopback only with TLS."""
    admin_listen: Address | None = None
    """Where health alone listens, in plaintext, for probes without a certificate; none if unset."""
    tls_certificate: FilePath | None = None
    """PEM chain of the server."""
    tls_private_key: FilePath | None = None
    """PEM key of the server."""
    tls_client_ca: FilePath | None = None
    """PEM roots; if set, a client must show a certificate that one of them signed."""
    reflection: bool | None = None
    """Server reflection, for grpcurl; unset: on loopback only."""
    concurrent_calls: PositiveInt = 256
    """Calls at work at a time; the next is refused."""
    call_seconds: PositiveFloat = 30.0
    """A call's longest time."""
    drain_seconds: PositiveFloat = 20.0
    """How long a stopping server waits for the calls at work."""
    drain_delay_seconds: float = Field(default=0.0, ge=0)
    """How long a stopping server says NOT_SERVING before it stops listening."""
    readiness_seconds: PositiveFloat = 5.0
    """How often the backends are asked whether they answer."""
    unwrap_scopes: tuple[Annotated[str, AfterValidator(_exact_scope)], ...] = ()
    """The scopes, named exactly, for which UnwrapKey is on; a JSON list."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """DEBUG adds our own lines only, never a library's: theirs hold secrets."""
    access_log: bool = True
    """One JSON line a call on stderr."""
    aws_region: str | None = None
    """Region of KMS and DynamoDB; unset: what the AWS SDK finds."""
    aws_table: str = Field(default="keyvault", min_length=3, max_length=255, pattern=r"^[A-Za-z0-9_.-]+$")
    """The DynamoDB table."""
    aws_master_keys: dict[str, str] = {}
    """JSON {label: KMS key ARN}; the first mints, every one unwraps."""
    aws_key_alias: str = "alias/keyvault"
    """The alias that `init` looks for or makes."""
    aws_kms_endpoint: str | None = None
    """Another KMS endpoint, for stand-ins."""
    aws_dynamodb_endpoint: str | None = None
    """Another DynamoDB endpoint, for stand-ins."""
    aws_ca_bundle: FilePath | None = None
    """PEM roots of those endpoints."""
    aws_call_seconds: PositiveFloat = 5.0
    """The longest time of one call to AWS."""
    aws_connections: PositiveInt = 64
    """Connections to each AWS service."""

    @model_validator(mode="after")
    def _whole(self) -> "Settings":
        if (self.tls_certificate is None) is not (self.tls_private_key is None):
            raise ValueError("tls_certificate and tls_private_key come together")
        if self.tls_client_ca and not self.tls_certificate:
            raise ValueError("tls_client_ca needs tls_certificate")
        if not self.tls_certificate and not is_loopback(self.listen):
            raise ValueError("listen is not a loopback address: set tls_certificate and tls_private_key")
        return self


def load_settings(**given: object) -> Settings:
    """Settings from what is given (None: not given), else from the environment. Raises BadSettings."""
    known = {PREFIX + name.upper() for name in Settings.model_fields} | CLIENT_VARIABLES
    unknown = sorted(name for name in os.environ if name.startswith(PREFIX) and name not in known)
    if unknown:
        raise BadSettings(f"unknown setting {unknown[0]}: see `keyvault-server check-config`")
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        name = ".".join(str(part) for part in first["loc"]) or "settings"
        raise BadSettings(f"{name}: {first['msg'].removeprefix('Value error, ')}") from None
    except ValueError as error:  # pydantic-settings: a variable that should be JSON is none
        raise BadSettings(str(error).splitlines()[0]) from None
