"""Makes the table, its index and the KMS key that the AWS backend needs, and keeps what exists: `keyvault-server init`.

The rule of this file: each step looks first and makes only what is missing, so that the next run completes an
interrupted one. Nothing is ever deleted or replaced.

Source: DynamoDB API Reference "CreateTable", "UpdateTable", "UpdateContinuousBackups"; AWS KMS API Reference
"CreateKey", "CreateAlias".
"""

import asyncio
import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from keyvault_server.backends.aws.calls import AwsClient, explain_failures
from keyvault_server.backends.aws.clients import open_clients
from keyvault_server.backends.aws.faults import AwsFault
from keyvault_server.backends.aws.name_index import DEFINITION
from keyvault_server.backends.aws.options import AwsOptions, BadAwsSettings
from keyvault_server.backends.aws.table import (
    ATTRIBUTE_TYPES,
    KEY_SCHEMA,
    NOT_OFFERED,
    has_our_key,
    index_of,
    refuse_unsafe_table,
)
from keyvault_server.core.errors import MasterKeyUnusable

TABLE_SECONDS = 120.0
"""Seconds that a new table may take until it is ACTIVE, as many until its index is, and until its backups are on."""
_POLL_SECONDS = 0.2
_CAPACITY = ("ReadCapacityUnits", "WriteCapacityUnits")
_CALL_SECONDS = 30.0
"""Time limit of a call here: AWS needs longer to make something than to use it, and a creation is not retried."""


async def create_backend(options: AwsOptions, alias: str) -> str:
    """Make the table with its index and, behind `alias` (such as `alias/keyvault`), a symmetric KMS key.

    Returns the key's ARN. Ignores `options.master_keys`. What exists is kept, or refused if the server would refuse it.
    Raises OperatorError.
    """
    if not alias.startswith("alias/"):
        raise BadAwsSettings(f"KEYVAULT_AWS_KEY_ALIAS: {alias!a}: must begin with alias/, such as alias/keyvault")
    patient = dataclasses.replace(options, call_timeout=_CALL_SECONDS)
    async with open_clients(patient, log=False) as (kms, dynamodb):
        with explain_failures(f"table {options.table}"):
            await _create_table(dynamodb, options.table)
            await _create_index(dynamodb, options.table)
            await _enable_backups(dynamodb, options.table)
        await refuse_unsafe_table(dynamodb, options.table)
        with explain_failures(f"KMS key {alias}"):
            return await _find_key(kms, alias) or await _create_key(kms, alias)


async def _create_table(dynamodb: AwsClient, name: str) -> None:
    try:
        await dynamodb.call(
            "create_table",
            TableName=name,
            KeySchema=KEY_SCHEMA,
            AttributeDefinitions=ATTRIBUTE_TYPES,
            GlobalSecondaryIndexes=[DEFINITION],
            BillingMode="PAY_PER_REQUEST",
            DeletionProtectionEnabled=True,
        )
    except AwsFault as fault:
        if fault.code != "ResourceInUseException":  # it exists
            raise
    await _wait_until(lambda table: table.get("TableStatus") != "CREATING", dynamodb, name)


async def _create_index(dynamodb: AwsClient, name: str) -> None:
    """Add the index to a table that has none of its name. One that takes longer is reported when the table is checked.

    DynamoDB fills it from the items that are there. On a provisioned table it gets the table's capacity.
    """
    table = (await dynamodb.call("describe_table", "Table", TableName=name))["Table"]
    if not has_our_key(table):
        return  # it is refused
    if index_of(table) is None:
        capacity = {name: units for name, units in table.get("ProvisionedThroughput", {}).items() if name in _CAPACITY}
        own = {"ProvisionedThroughput": capacity} if any(capacity.values()) else {}  # a table on demand has zeros
        made = [{"Create": DEFINITION | own}]
        await dynamodb.call(
            "update_table", TableName=name, AttributeDefinitions=ATTRIBUTE_TYPES, GlobalSecondaryIndexUpdates=made
        )
    with contextlib.suppress(TimeoutError):
        await _wait_until(lambda table: (index_of(table) or {}).get("IndexStatus") == "ACTIVE", dynamodb, name)


async def _wait_until(done: Callable[[Mapping[str, Any]], bool], dynamodb: AwsClient, name: str) -> None:
    """Wait until the table is as wanted. Raises TimeoutError after TABLE_SECONDS."""
    async with asyncio.timeout(TABLE_SECONDS):
        while not done((await dynamodb.call("describe_table", "Table", TableName=name))["Table"]):  # noqa: ASYNC110
            await asyncio.sleep(_POLL_SECONDS)


async def _enable_backups(dynamodb: AwsClient, name: str) -> None:
    """Enable point-in-time recovery, which AWS refuses for some seconds after it made a table."""
    wanted = {"PointInTimeRecoveryEnabled": True}
    async with asyncio.timeout(TABLE_SECONDS):
        while True:
            try:
                await dynamodb.call(
                    "update_continuous_backups", TableName=name, PointInTimeRecoverySpecification=wanted
                )
            except AwsFault as fault:
                if fault.code in NOT_OFFERED:
                    return
                if fault.code != "ContinuousBackupsUnavailableException":
                    raise
                await asyncio.sleep(_POLL_SECONDS)
            else:
                return


async def _find_key(kms: AwsClient, alias: str) -> str | None:
    try:
        reply = await kms.call("describe_key", "KeyMetadata", KeyId=alias)
    except MasterKeyUnusable as unusable:
        if isinstance(unusable.__cause__, AwsFault) and unusable.__cause__.code == "NotFoundException":
            return None
        raise
    key = reply["KeyMetadata"]
    if key.get("KeyState") != "Enabled" or key.get("KeySpec") != "SYMMETRIC_DEFAULT":
        raise BadAwsSettings(
            f"KEYVAULT_AWS_KEY_ALIAS: {alias}: its KMS key must be enabled and symmetric: fix it or set another alias"
        )
    return str(key["Arn"])


async def _create_key(kms: AwsClient, alias: str) -> str:
    description = "KeyVault: wraps data keys; losing it loses every record"
    reply = await kms.call(
        "create_key",
        "KeyMetadata",
        Description=description,
        KeySpec="SYMMETRIC_DEFAULT",
        KeyUsage="ENCRYPT_DECRYPT",
    )
    arn = str(reply["KeyMetadata"]["Arn"])
    try:
        await kms.call("create_alias", AliasName=alias, TargetKeyId=arn)
    except AwsFault as fault:
        if fault.code != "AlreadyExistsException":
            raise
        raise BadAwsSettings(
            f"{alias} was created by another process at the same time: run init again; the new key {arn} stays unused"
        ) from None
    return arn
