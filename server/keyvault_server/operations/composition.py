"""Composition: open the backend and the gate that the settings name, for a server or for an operator's command.

The rule of this file: it is the only one that knows both the settings and the backends. The AWS half is imported only
where it is used: importing it costs 0.3 s and 45 MB.
"""

import contextlib
import shlex
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from keyvault_server.access.identity import Identifier
from keyvault_server.access.policy import BadPolicy, Policy
from keyvault_server.access.policy_file import MAX_SIZE
from keyvault_server.access.tls import ServerTls, TlsFiles
from keyvault_server.access.tokens import TokenOptions, TokenRules, Tokens, open_tokens
from keyvault_server.audit.key import default_key_path
from keyvault_server.audit.trail import Audit, AuditOptions, open_audit
from keyvault_server.backends.embedded.backup import backup
from keyvault_server.backends.embedded.data_directory import DataDirectory, UnusableData
from keyvault_server.backends.embedded.keyring import Keyring
from keyvault_server.backends.embedded.sqlite import open_store
from keyvault_server.core.meter import Meter
from keyvault_server.core.ports import KeyService, RecordStore
from keyvault_server.disk.watched import Watched, read_file
from keyvault_server.operations.settings import Settings
from keyvault_server.rpc.gatekeeper import Gatekeeper
from keyvault_server.rpc.metrics import Metrics

if TYPE_CHECKING:
    from keyvault_server.backends.aws.options import AwsOptions

MAX_POLICY = 4 * MAX_SIZE
"""Bytes in a policy file: a character of UTF-8 has at most four."""


@contextlib.asynccontextmanager
async def open_gate(settings: Settings, metrics: Metrics) -> AsyncIterator[Gatekeeper]:
    """Open identity, policy and audit log of the configured kind; follow their files while the body runs.

    Raises OperatorError.
    """
    async with contextlib.AsyncExitStack() as opened:
        policy = _watched_policy(settings.policy, settings.workers, metrics) if settings.policy else None
        if policy:
            await opened.enter_async_context(policy.watching())
        audit = None
        if settings.audit_file:
            audit = await opened.enter_async_context(open_audit_log(settings, settings.audit_file))
        identifier = None
        if settings.authenticates or policy:
            tokens = await opened.enter_async_context(_open_tokens(settings, metrics))
            identifier = Identifier(certificates=settings.tls_client_ca is not None, tokens=tokens)
        yield Gatekeeper(
            identifier, policy, audit, settings.audit_spares_reads, in_flight_per_caller=_calls_of_one_caller(settings)
        )


def _calls_of_one_caller(settings: Settings) -> int:
    """Return half of all calls, so that no caller locks out the others; all, if callers are not authenticated."""
    return max(1, settings.concurrent_calls // 2) if settings.authenticates else settings.concurrent_calls


def check_files(settings: Settings) -> None:
    """Read the certificates and the policy that the settings name, as a start does. Raises OperatorError."""
    server_tls(settings, Metrics())
    if settings.policy:
        read_policy(settings.policy)


def server_tls(settings: Settings, metrics: Metrics) -> ServerTls | None:
    """The TLS files, read; None: plaintext. Raises OperatorError."""
    if settings.tls_certificate is None or settings.tls_private_key is None:
        return None
    files = TlsFiles(settings.tls_certificate, settings.tls_private_key, settings.tls_client_ca)
    return ServerTls(files, meter=metrics)


def read_policy(path: Path) -> Policy:
    """Read the policy in a file. Raises OperatorError."""
    try:
        return Policy.parse(read_file(path, MAX_POLICY).decode("utf-8-sig"))  # editors write a byte order mark
    except UnicodeDecodeError:
        raise BadPolicy(f"{path} is not UTF-8: save it as UTF-8") from None
    except BadPolicy as error:
        raise BadPolicy(f"{path}, {error}") from None


def _watched_policy(path: Path, shares: int, metrics: Metrics) -> Watched[Policy]:
    return Watched("policy", [path], lambda: read_policy(path).divided(shares), metrics)


def audit_key_path(settings: Settings, file: Path) -> Path:
    """Return where the key of this audit log is: next to it, unless the settings name another place."""
    return settings.audit_key or default_key_path(file)


@contextlib.asynccontextmanager
async def open_audit_log(settings: Settings, file: Path) -> AsyncIterator[Audit]:
    """Open the audit log in this file; its key is next to it unless the settings name another. Raises OperatorError."""
    key = audit_key_path(settings, file)
    async with open_audit(AuditOptions(file, key, settings.audit_clear_names, settings.audit_file_bytes)) as audit:
        yield audit


@contextlib.asynccontextmanager
async def _open_tokens(settings: Settings, metrics: Metrics) -> AsyncIterator[Tokens | None]:
    if settings.jwt_keys is None:
        yield None
        return
    rules = TokenRules(
        settings.jwt_issuer or "",
        settings.jwt_audience or "",
        settings.jwt_algorithms,
        type=settings.jwt_type,
        lifetime_seconds=settings.jwt_lifetime_seconds,
    )
    options = TokenOptions(
        settings.jwt_keys, rules, settings.jwt_ca, settings.jwt_keys_seconds, settings.jwt_keys_token_file
    )
    async with open_tokens(options, meter=metrics) as tokens:
        metrics.gauge(
            "token_keys_age_seconds", "Since the tokens' keys were last fetched; 0: a file.", lambda: tokens.keys_age
        )
        yield tokens


@contextlib.asynccontextmanager
async def open_backend(settings: Settings, meter: Meter | None = None) -> AsyncIterator[tuple[KeyService, RecordStore]]:
    """Open the two ports of the configured backend while the body runs. Raises OperatorError."""
    if settings.backend == "aws":
        from keyvault_server.backends.aws.clients import open_aws

        async with open_aws(_aws_options(settings), meter) as ports:
            yield ports
        return
    directory = data_directory(settings)
    with directory.locked():
        keyring = _make_or_load(directory)
        async with open_store(directory.database, meter) as records:
            yield keyring, records


@contextlib.asynccontextmanager
async def open_records(settings: Settings) -> AsyncIterator[RecordStore]:
    """Open the records for an operator; unlike a start, refuse a missing directory. Raises OperatorError."""
    if settings.backend == "embedded" and not (directory := data_directory(settings)).database.exists():
        raise UnusableData(f"{directory.path} has no records: name the server's own directory")
    async with open_backend(settings) as (_, records):
        yield records


class Initialised(NamedTuple):
    """What `initialise` leaves to do."""

    environment: str
    """Shell commands that name the backend for a server."""
    advice: str
    """One sentence for the operator, or empty."""


async def initialise(settings: Settings) -> Initialised:
    """Create what the backend needs, if it does not exist. Raises OperatorError."""
    if settings.backend == "aws":
        from keyvault_server.backends.aws.setup import create_backend

        arn = await create_backend(_aws_options(settings), settings.aws_key_alias)
        return Initialised(f"""export KEYVAULT_BACKEND=aws KEYVAULT_AWS_MASTER_KEYS='{{"1": "{arn}"}}'""", "")
    directory = data_directory(settings)
    async with open_backend(settings):
        environment = f"export KEYVAULT_DATA={shlex.quote(str(directory.path))}"
        return Initialised(environment, f"back up {directory.keyring} now, and keep it apart from the records")


def backup_records(settings: Settings, target: Path) -> int:
    """Copy the embedded records to a new file; return how many there are. Raises OperatorError."""
    if settings.backend == "aws":
        raise UnusableData("the records are in DynamoDB: back up the table there (docs/backup.md)")
    return backup(data_directory(settings), target)


def rotate_master_key(settings: Settings) -> str:
    """Add a master key to the embedded keyring; return its label. Raises OperatorError while a server runs."""
    directory = data_directory(settings)
    if not directory.keyring.exists():
        raise UnusableData(f"{directory.path} has no keyring: `keyvault-server init` makes one")
    with directory.locked():
        return Keyring.rotate(directory.keyring).current_label


def data_directory(settings: Settings) -> DataDirectory:
    """Return the embedded backend's directory, with `~` resolved. Raises UnusableData."""
    try:
        return DataDirectory(settings.data.expanduser().resolve())
    except RuntimeError as error:  # the user has no home directory, or the path is a loop of links
        why = "symbolic links lead back to it" if "loop" in str(error) else "this user has no home directory"
        raise UnusableData(f"KEYVAULT_DATA: {settings.data}: {why}: name another directory") from None


def _make_or_load(directory: DataDirectory) -> Keyring:
    """Return the directory's keyring, a new one if the directory is new; next to a database, a missing one was lost."""
    if directory.keyring.exists():
        return Keyring.load(directory.keyring)
    if directory.database.exists():
        raise UnusableData(
            f"{directory.keyring} is missing, but its database exists: restore the keyring from its backup"
        )
    return Keyring.create(directory.keyring)


def _aws_options(settings: Settings) -> "AwsOptions":
    from keyvault_server.backends.aws.options import AwsOptions

    if settings.aws_ca_bundle:
        read_file(settings.aws_ca_bundle)  # refuses a file that others can write
    return AwsOptions(
        region=settings.aws_region,
        table=settings.aws_table,
        master_keys=settings.aws_master_keys,
        kms_endpoint=settings.aws_kms_endpoint,
        dynamodb_endpoint=settings.aws_dynamodb_endpoint,
        ca_bundle=str(settings.aws_ca_bundle) if settings.aws_ca_bundle else None,
        call_timeout=settings.aws_call_seconds,
        max_connections=settings.aws_connections,
    )
