"""Which backend the settings name, how it is opened, and what an operator does to it while no server runs.

The AWS half is imported only where it is used: importing it costs 0.3 s and 45 MB.
"""

import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from keyvault_server.backends.embedded.files import DataDirectory, UnsafeDirectory
from keyvault_server.backends.embedded.keyring import Keyring
from keyvault_server.backends.embedded.sqlite import open_store
from keyvault_server.config import Settings
from keyvault_server.ports import KeyService, RecordStore

if TYPE_CHECKING:
    from keyvault_server.backends.aws.clients import AwsOptions


@contextlib.asynccontextmanager
async def open_backend(settings: Settings) -> AsyncIterator[tuple[KeyService, RecordStore]]:
    """The two ports of the configured backend, open while the body runs. Raises Refused."""
    if settings.backend == "aws":
        from keyvault_server.backends.aws.clients import open_aws

        async with open_aws(_aws_options(settings)) as ports:
            yield ports
        return
    directory = data_directory(settings)
    with directory.locked():
        keyring = _make_or_load(directory)
        async with open_store(directory.database) as records:
            yield keyring, records


async def initialise(settings: Settings) -> str:
    """Makes what the backend needs, if it is absent; returns a sentence on what to do next. Raises Refused."""
    if settings.backend == "aws":
        from keyvault_server.backends.aws.setup import create_backend

        arn = await create_backend(_aws_options(settings), settings.aws_key_alias)
        return f"""export KEYVAULT_BACKEND=aws KEYVAULT_AWS_MASTER_KEYS='{{"1": "{arn}"}}'"""
    async with open_backend(settings):
        return f"back up {data_directory(settings).keyring} now, and apart from the records"


def rotate_master_key(settings: Settings) -> str:
    """Adds a master key to the embedded keyring; returns its label. Raises Refused while a server runs."""
    directory = data_directory(settings)
    with directory.locked():
        if not directory.keyring.exists():
            raise UnsafeDirectory(f"{directory.path} has no keyring: `keyvault-server init` makes one")
        return Keyring.rotate(directory.keyring).current_label


def data_directory(settings: Settings) -> DataDirectory:
    """The embedded backend's directory, `~` resolved."""
    return DataDirectory(settings.data.expanduser().resolve())


def _make_or_load(directory: DataDirectory) -> Keyring:
    """A new keyring for a new directory; beside a database a missing one is a loss, not a beginning."""
    if directory.keyring.exists():
        return Keyring.load(directory.keyring)
    if directory.database.exists():
        raise UnsafeDirectory(f"{directory.keyring} is missing beside its database: restore it from its backup")
    return Keyring.create(directory.keyring)


def _aws_options(settings: Settings) -> "AwsOptions":
    from keyvault_server.backends.aws.clients import AwsOptions

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
