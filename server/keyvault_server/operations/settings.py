"""All settings of the server, with their types, defaults and the rules between them.

The rule of this file: a setting says what it means, and no setting is a secret. `environment.py` reads them.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, FilePath, PositiveInt, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from keyvault_api.address import is_loopback
from keyvault_api.names import is_key_id

PREFIX = "KEYVAULT_"


def _address(text: str) -> str:
    host, separator, port = text.rpartition(":")
    if text.startswith("unix:") or (separator and host and port.isdecimal() and int(port) < 65536):
        return text
    raise ValueError("an address is host:port, [ipv6]:port or unix:/path")


def _exact_scope(scope: str) -> str:
    if not is_key_id(scope):
        raise ValueError("a scope is named exactly here: a key_id, no prefix and no wildcard")
    return scope


def _host_and_port(text: str) -> str:
    if text.startswith("unix:"):
        raise ValueError("a unix socket does not do here: host:port or [ipv6]:port")
    return text


Address = Annotated[str, AfterValidator(_address)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Settings(BaseSettings):
    """All settings of `keyvault-server`, with their defaults."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True, hide_input_in_errors=True)

    backend: Literal["embedded", "aws"] = "embedded"
    """Where keys and records live: SQLite and a keyring in `data`, or AWS KMS and DynamoDB."""
    data: Path = Path("~/.local/share/keyvault")
    """The embedded backend's directory."""
    listen: Address = "127.0.0.1:50051"
    """Where the service listens: host:port or unix:/path; port 0 takes a free one. Off loopback only with TLS."""
    admin_listen: Address | None = None
    """Where health alone listens, in plaintext, for probes without a certificate; none if unset."""
    tls_certificate: FilePath | None = None
    """PEM chain of the server."""
    tls_private_key: FilePath | None = None
    """PEM key of the server."""
    tls_client_ca: FilePath | None = None
    """PEM roots; if set, a client must show a certificate that one of them signed."""
    policy: FilePath | None = None
    """TOML file of who may call what (docs/policy.md); read again when it changes. Needed with authentication."""
    jwt_keys: str | None = None
    """Key set (JWKS) of bearer tokens: a file, or an https URL; turns tokens on."""
    jwt_issuer: str | None = None
    """The `iss` that a token must carry."""
    jwt_audience: str | None = None
    """The `aud` that a token must carry."""
    jwt_algorithms: tuple[str, ...] = ("ES256", "EdDSA", "RS256")
    """The signatures that a token may have; a JSON list. With public keys only: no HS256, no none."""
    jwt_ca: FilePath | None = None
    """PEM roots of the URL in jwt_keys; unset: the system's."""
    jwt_keys_seconds: Seconds = 86_400.0
    """How long tokens are believed while the URL in jwt_keys gives no key set; then calls with one are UNAVAILABLE."""
    audit_file: Path | None = None
    """Audit log (docs/audit.md); nothing is answered that it did not take. None if unset."""
    audit_file_bytes: int = Field(default=1024**3, ge=65_536)
    """A log of this size is kept as FILE.<seq of its first line>, and a new file goes on."""
    audit_key: Path | None = None
    """The audit log's keys, made if absent; unset: beside the log."""
    audit_clear_names: bool = False
    """Whether names are in clear in the audit log, not as HMACs."""
    audit_spares_reads: bool = False
    """Whether Reads are answered while the audit log takes nothing."""
    metrics_listen: Annotated[Address, AfterValidator(_host_and_port)] | None = None
    """Where metrics are served to Prometheus, in plaintext HTTP; nowhere if unset."""
    reflection: bool | None = None
    """Server reflection, for grpcurl; unset: on loopback only."""
    concurrent_calls: PositiveInt = 256
    """Calls at work at a time, one caller's at most half (docs/policy.md). A connection may have twice as many."""
    call_seconds: Seconds = 30.0
    """A call's longest time."""
    drain_seconds: Seconds = 20.0
    """How long a stopping server waits for the calls at work."""
    drain_delay_seconds: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """How long a stopping server says NOT_SERVING before it stops listening."""
    readiness_seconds: Seconds = 5.0
    """How often the backends are asked whether they answer."""
    insecure_plaintext: bool = False
    """Off loopback: do without TLS."""
    insecure_anonymous: bool = False
    """Off loopback: do without authentication; every caller is of tenant "default"."""
    insecure_no_policy: bool = False
    """Off loopback: do without a policy."""
    insecure_no_audit: bool = False
    """Off loopback, and in a purge: do without an audit log."""
    insecure_embedded_keys: bool = False
    """Off loopback: do with master keys in a file."""
    insecure_reflection: bool = False
    """Off loopback: tell anyone which methods there are."""
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
    """Another KMS endpoint, for stand-ins: https, or on this machine."""
    aws_dynamodb_endpoint: str | None = None
    """Another DynamoDB endpoint, for stand-ins: https, or on this machine."""
    aws_ca_bundle: FilePath | None = None
    """PEM roots of those endpoints."""
    aws_call_seconds: Seconds = 5.0
    """The longest time of one call to AWS."""
    aws_connections: PositiveInt = 64
    """Connections to each AWS service."""

    @model_validator(mode="after")
    def _whole(self) -> "Settings":
        if (self.tls_certificate is None) is not (self.tls_private_key is None):
            raise ValueError("tls_certificate and tls_private_key come together")
        if self.tls_client_ca and not self.tls_certificate:
            raise ValueError("tls_client_ca needs tls_certificate")
        if self.jwt_keys and not (self.jwt_issuer and self.jwt_audience and self.jwt_algorithms):
            raise ValueError("jwt_keys needs jwt_issuer and jwt_audience")
        if (self.jwt_issuer or self.jwt_audience or self.jwt_ca) and not self.jwt_keys:
            raise ValueError("jwt_issuer, jwt_audience and jwt_ca need jwt_keys: without it no token is looked at")
        if self.jwt_keys and not self.tls_certificate and not is_loopback(self.listen):
            raise ValueError("jwt_keys needs tls_certificate: whoever listens would have the tokens")
        if self.audit_file is not None and not self.audit_file.name:
            raise ValueError("audit_file names no file")
        return self

    @property
    def authenticates(self) -> bool:
        """True if callers have to say who they are."""
        return self.tls_client_ca is not None or self.jwt_keys is not None
