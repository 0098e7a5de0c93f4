"""All settings of the server, with their types, defaults and the rules between them.

The rule of this file: a setting says what it means, and no setting is a secret. `environment.py` reads them.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, FilePath, PlainSerializer, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from keyvault_api.address import MAX_SOCKET_PATH, is_loopback, socket_path_size
from keyvault_api.names import MAX_HISTORY, is_key_id

PREFIX = "KEYVAULT_"


DIVIDED = ("concurrent_calls", "connections", "connections_per_address", "aws_connections")
"""The settings of which each worker has an equal share, rounded down."""
LONGEST_SECONDS = 31_536_000.0
"""A year: far longer times fit no timeout of a socket (OverflowError)."""

_MEDIA_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]+(/[A-Za-z0-9!#$&^_.+-]+)?", re.ASCII)  # RFC 6838, 4.2


def check_address(text: str) -> str:
    """Return the address. Raises ValueError, with a sentence for the operator, for one that is none."""
    if text.startswith("unix:"):
        size = socket_path_size(text)
        if not size:
            raise ValueError("must be host:port, [ipv6]:port or unix:/path")
        if size > MAX_SOCKET_PATH:
            raise ValueError(f"the path of a unix socket has at most {MAX_SOCKET_PATH} bytes, this one has {size}")
        return text
    host, separator, port = text.rpartition(":")
    is_ipv6 = host.startswith("[") and host.endswith("]")
    if (":" in host and not is_ipv6) or not (
        separator and host and port.isascii() and port.isdecimal() and int(port) < 65536
    ):
        raise ValueError("must be host:port, [ipv6]:port or unix:/path")
    try:
        host.encode("idna")  # as the resolver does
    except UnicodeError:
        raise ValueError("the host is not a valid name: its parts have 1 to 63 characters") from None
    return text


def _octal(value: object) -> object:
    if isinstance(value, str):
        if not re.fullmatch("0?o?[0-7]{3}", value):
            raise ValueError("must be three octal digits, such as 0600")
        value = int(value, 8)
    return value


def _in_octal(mode: int) -> str:
    return f"{mode:04o}"


def _exact_scope(scope: str) -> str:
    if not is_key_id(scope):
        raise ValueError("each must be a key_id; prefixes and wildcards are not allowed here")
    return scope


def _host_and_port(text: str) -> str:
    if text.startswith("unix:"):
        raise ValueError("must be host:port or [ipv6]:port, not a unix socket")
    return text


def _from_json(value: object) -> object:
    """Return what a variable's text means. The library's own decoding would report one such variable and no other."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise ValueError("must be JSON, as docs/settings.md shows") from None


def _token_type(text: str) -> str:
    if not _MEDIA_TYPE.fullmatch(text):
        raise ValueError("must be a media type, such as at+jwt")
    return text


def _capitals(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


Address = Annotated[str, AfterValidator(check_address)]
Seconds = Annotated[float, Field(gt=0, le=LONGEST_SECONDS)]


class Settings(BaseSettings):
    """All settings of `keyvault-server`, with their defaults."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True, hide_input_in_errors=True)

    backend: Literal["embedded", "aws"] = "embedded"
    """Where keys and records are: SQLite and a keyring in `data`, or AWS KMS and DynamoDB."""
    data: Path = Path("~/.local/share/keyvault")
    """The embedded backend's directory."""
    listen: Address = "127.0.0.1:50051"
    """Where the service listens: host:port or unix:/path; port 0 takes a free one. Without TLS, loopback only."""
    socket_mode: Annotated[int, BeforeValidator(_octal), PlainSerializer(_in_octal)] = 0o600
    """Mode of unix sockets, in octal: 0600 for this user alone, 0660 for its group too. The umask does not count."""
    admin_listen: Address | None = None
    """Where health listens in plaintext, for probes without a certificate; nowhere if unset."""
    tls_certificate: FilePath | None = None
    """PEM chain of the server."""
    tls_private_key: FilePath | None = None
    """PEM key of the server."""
    tls_client_ca: FilePath | None = None
    """PEM roots; if set, a client must present a certificate that one of them signed."""
    policy: FilePath | None = None
    """TOML file that says who may call what (docs/policy.md); reloaded when it changes. Needed with authentication."""
    jwt_keys: str | None = None
    """Key set (JWKS) of bearer tokens: a file, or an https URL; turns tokens on."""
    jwt_issuer: str | None = None
    """The `iss` that a token must carry."""
    jwt_audience: str | None = None
    """The `aud` that a token must carry."""
    jwt_algorithms: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_from_json)] = ("ES256", "EdDSA", "RS256")
    """The signature algorithms that a token may use; a JSON list. Public-key algorithms only."""
    jwt_type: Annotated[str, AfterValidator(_token_type)] | None = None
    """The `typ` that a token must carry, such as at+jwt, with or without application/; if unset, any or none."""
    jwt_lifetime_seconds: Seconds | None = None
    """Longest lifetime of a token, from its `iat`, which it must then carry, to its `exp`; if unset, any."""
    jwt_ca: FilePath | None = None
    """PEM roots for the URL in jwt_keys, reloaded when they change; if unset, the system's."""
    jwt_keys_token_file: FilePath | None = None
    """File with a bearer token for the URL in jwt_keys, reloaded when it changes; kube-apiserver asks for one."""
    jwt_keys_seconds: Seconds = 86_400.0
    """How long tokens are accepted while the URL in jwt_keys gives no key set; then their calls are UNAVAILABLE."""
    audit_file: Path | None = None
    """File of the audit log (docs/audit.md); a call that cannot be recorded fails. No audit log if unset."""
    audit_file_bytes: int = Field(default=1024**3, ge=65_536)
    """Size at which the log is renamed to FILE.<seq of its first line> and continued in a new file."""
    audit_key: Path | None = None
    """File of the audit log's keys, created if it does not exist; if unset, FILE.key next to the log."""
    audit_clear_names: bool = False
    """Write names in plaintext to the audit log, next to their HMACs."""
    audit_spares_reads: bool = False
    """Serve Reads while the audit log is unavailable (fail open)."""
    metrics_listen: Annotated[Address, AfterValidator(_host_and_port)] | None = None
    """Where Prometheus scrapes metrics, in plaintext HTTP; nowhere if unset."""
    reflection: bool | None = None
    """Server reflection, for grpcurl; if unset, on loopback only."""
    concurrent_calls: int = Field(default=256, ge=1, le=100_000)
    """Maximum in-flight calls; one caller may use half (docs/policy.md), one connection may have 100."""
    connections: int = Field(default=1_000, ge=0, le=65_536)
    """Maximum open connections; beyond, the newest without a call are cut first. 0: as many as open files allow."""
    connections_per_address: int = Field(default=500, ge=0, le=65_536)
    """The same for one peer address, which callers behind a proxy or NAT share (docs/proxy.md). 0: no limit."""
    workers: int = Field(default=1, ge=1, le=16)
    """Processes that serve on one port, of the aws backend only; they divide the limits (docs/workers.md)."""
    call_seconds: Seconds = 30.0
    """Longest time of a call."""
    drain_seconds: Seconds = 20.0
    """How long a stopping server waits for the in-flight calls."""
    drain_delay_seconds: float = Field(default=0.0, ge=0, le=LONGEST_SECONDS)
    """How long a stopping server answers NOT_SERVING before it refuses calls."""
    readiness_seconds: Seconds = 5.0
    """How often the backends are checked."""
    insecure_plaintext: bool = False
    """On a non-loopback address: allow plaintext."""
    insecure_anonymous: bool = False
    """On a non-loopback address: allow unauthenticated callers, all of tenant "default"."""
    insecure_no_policy: bool = False
    """On a non-loopback address: allow every call to every caller."""
    insecure_no_audit: bool = False
    """On a non-loopback address, and in a purge: do without an audit log."""
    insecure_embedded_keys: bool = False
    """On a non-loopback address: allow master keys in a file."""
    insecure_reflection: bool = False
    """On a non-loopback address: allow reflection."""
    history: int = Field(default=10, ge=0, le=MAX_HISTORY)
    """Earlier revisions of a record that can be read. With 10, an Update costs DynamoDB about three times as much."""
    unwrap_scopes: Annotated[
        tuple[Annotated[str, AfterValidator(_exact_scope)], ...], NoDecode, BeforeValidator(_from_json)
    ] = ()
    """The exact scopes for which UnwrapKey is enabled; a JSON list."""
    log_level: Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], BeforeValidator(_capitals)] = "INFO"
    """Level of our own log lines; a library's DEBUG lines, which may hold secrets, are never logged."""
    access_log: bool = True
    """Write one JSON line per call to stderr."""
    traceback: bool = False
    """Print the traceback of an unexpected error, which may show names and values; `serve` logs it in any case."""
    aws_region: str | None = None
    """Region of KMS and DynamoDB; if unset, that of the master keys, which AWS_REGION must not contradict."""
    aws_table: str = Field(default="keyvault", min_length=3, max_length=255, pattern=r"^[A-Za-z0-9_.-]+$")
    """The DynamoDB table."""
    aws_master_keys: Annotated[dict[str, str], NoDecode, BeforeValidator(_from_json)] = {}
    """JSON {label: KMS key ARN}; the first wraps new keys, all of them unwrap."""
    aws_key_alias: str = "alias/keyvault"
    """The alias that `init` looks for or creates."""
    aws_kms_endpoint: str | None = None
    """Another KMS endpoint, for tests: https, or on this machine."""
    aws_dynamodb_endpoint: str | None = None
    """Another DynamoDB endpoint, for tests: https, or on this machine."""
    aws_ca_bundle: FilePath | None = None
    """PEM roots of those endpoints."""
    aws_call_seconds: Seconds = 5.0
    """Longest time of one call to AWS, retries included."""
    aws_connections: int = Field(default=64, ge=1, le=10_000)
    """Maximum connections to each AWS service."""

    @model_validator(mode="after")
    def _whole(self) -> "Settings":
        contradictions = (
            self._contradictions_of_access(),
            self._contradictions_of_stores(),
            self._contradictions_of_workers(),
        )
        wrong = [sentence for sentences in contradictions for sentence in sentences]
        if wrong:
            raise ValueError("; ".join(wrong))
        return self

    def _contradictions_of_access(self) -> Iterator[str]:
        """Yield a sentence for each setting of TLS and tokens that lacks another one."""
        if (self.tls_certificate is None) is not (self.tls_private_key is None):
            yield "KEYVAULT_TLS_CERTIFICATE and KEYVAULT_TLS_PRIVATE_KEY must be set together"
        if self.tls_client_ca and not self.tls_certificate:
            yield "KEYVAULT_TLS_CLIENT_CA needs KEYVAULT_TLS_CERTIFICATE"
        if self.jwt_keys and not (self.jwt_issuer and self.jwt_audience and self.jwt_algorithms):
            yield "KEYVAULT_JWT_KEYS needs KEYVAULT_JWT_ISSUER, KEYVAULT_JWT_AUDIENCE and at least one algorithm"
        of_tokens = (self.jwt_issuer, self.jwt_audience, self.jwt_ca, self.jwt_type, self.jwt_lifetime_seconds)
        if any(of_tokens) and not self.jwt_keys:
            names = "KEYVAULT_JWT_ISSUER, _AUDIENCE, _CA, _TYPE and _LIFETIME_SECONDS"
            yield f"{names} need KEYVAULT_JWT_KEYS: without it tokens are ignored"
        if self.jwt_keys_token_file and "://" not in (self.jwt_keys or ""):
            yield "KEYVAULT_JWT_KEYS_TOKEN_FILE needs a URL in KEYVAULT_JWT_KEYS: a file is read without a token"
        if self.jwt_keys and not self.tls_certificate and not is_loopback(self.listen):
            yield "KEYVAULT_JWT_KEYS needs KEYVAULT_TLS_CERTIFICATE: in plaintext, tokens can be stolen"

    def _contradictions_of_stores(self) -> Iterator[str]:
        """Yield a sentence for each setting of a store or a log that is not used, or cannot be."""
        if self.audit_file is not None and not self.audit_file.name:
            yield "KEYVAULT_AUDIT_FILE is not the path of a file"
        if self.audit_key is not None and self.audit_key == self.audit_file:
            yield "KEYVAULT_AUDIT_KEY and KEYVAULT_AUDIT_FILE are the same file: name another for the key"
        if self.backend == "embedded":  # AWS was meant, and the records would go to a file on this machine
            fields = type(self).model_fields
            changed = [name for name, field in fields.items() if getattr(self, name) != field.get_default()]
            of_aws = [PREFIX + name.upper() for name in changed if name.startswith("aws_")]
            if of_aws:
                verb, them = ("are", "them") if len(of_aws) > 1 else ("is", "it")
                names = ", ".join(of_aws)
                yield f"{names} {verb} set but backend is embedded: set {PREFIX}BACKEND=aws, or unset {them}"

    def _contradictions_of_workers(self) -> Iterator[str]:
        """Yield a sentence for each setting that several workers cannot have."""
        if self.workers == 1:
            return
        several = f"{PREFIX}WORKERS is {self.workers}"
        if self.backend == "embedded":
            yield (
                f"{several} but backend is embedded, whose directory belongs to one process:"
                f" set {PREFIX}BACKEND=aws, or unset {PREFIX}WORKERS"
            )
        if self.listen.startswith("unix:"):
            yield (
                f"{several} but {PREFIX}LISTEN is a unix socket, on which one process can listen:"
                f" set host:port, or unset {PREFIX}WORKERS"
            )
        for name in DIVIDED:
            if 0 < getattr(self, name) < self.workers:
                yield f"{PREFIX}{name.upper()} must be at least {PREFIX}WORKERS, {self.workers}: they divide it"

    @property
    def authenticates(self) -> bool:
        """Whether callers have to authenticate."""
        return self.tls_client_ca is not None or self.jwt_keys is not None
