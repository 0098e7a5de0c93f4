"""Makes what the AWS backend needs and leaves alone what is there: `keyvault-server init`.

The rule of this file: every step looks before it makes, so that an interrupted run is finished by the next one, and
nothing is ever deleted or replaced.

Source: DynamoDB API Reference "CreateTable", "UpdateContinuousBackups"; AWS KMS API Reference "CreateKey",
"CreateAlias".
"""

import asyncio
import dataclasses

from keyvault_server.backends.aws.calls import AwsClient, AwsFault, refused
from keyvault_server.backends.aws.clients import AwsOptions, BadAwsSettings, open_clients
from keyvault_server.backends.aws.table import KEY_SCHEMA, KEY_TYPES, NOT_OFFERED, refuse_unsafe_table
from keyvault_server.core.errors import MasterKeyUnusable

TABLE_SECONDS = 120.0
"""How long a new table may take until it is ACTIVE and its backups are on."""
_POLL_SECONDS = 0.2
_CALL_SECONDS = 30.0
"""Making something takes AWS longer than using it, and is not asked for twice."""


async def create_backend(options: AwsOptions, alias: str) -> str:
    """Makes the table and, behind `alias` (as `alias/keyvault`), a symmetric KMS key; returns the key's ARN.

    Does not look at `options.master_keys`. What exists already is kept, and refused if the server would refuse it.
    Raises OperatorError.
    """
    if not alias.startswith("alias/"):
        raise BadAwsSettings("the alias of the KMS key begins with alias/: set KEYVAULT_AWS_KEY_ALIAS")
    patient = dataclasses.replace(options, call_timeout=_CALL_SECONDS)
    async with open_clients(patient, log=False) as (kms, dynamodb):
        with refused(f"table {options.table}"):
            await _create_table(dynamodb, options.table)
            await _switch_backups_on(dynamodb, options.table)
        await refuse_unsafe_table(dynamodb, options.table)
        with refused(f"KMS key {alias}"):
            return await _find_key(kms, alias) or await _create_key(kms, alias)


async def _create_table(dynamodb: AwsClient, name: str) -> None:
    try:
        await dynamodb.call(
            "create_table",
            TableName=name,
            KeySchema=KEY_SCHEMA,
            AttributeDefinitions=KEY_TYPES,
            BillingMode="PAY_PER_REQUEST",
            DeletionProtectionEnabled=True,
        )
    except AwsFault as fault:
        if fault.code != "ResourceInUseException":  # it exists
            raise
    async with asyncio.timeout(TABLE_SECONDS):
        while await _is_being_made(dynamodb, name):  # noqa: ASYNC110 - AWS sends no event
            await asyncio.sleep(_POLL_SECONDS)


async def _is_being_made(dynamodb: AwsClient, name: str) -> bool:
    table = (await dynamodb.call("describe_table", "Table", TableName=name))["Table"]
    return bool(table.get("TableStatus") == "CREATING")


async def _switch_backups_on(dynamodb: AwsClient, name: str) -> None:
    """Point-in-time recovery; AWS refuses it for some seconds after a table was made."""
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
    except MasterKeyUnusable:  # there is none
        return None
    key = reply["KeyMetadata"]
    if key.get("KeyState") != "Enabled" or key.get("KeySpec") != "SYMMETRIC_DEFAULT":
        raise BadAwsSettings(f"{alias} names a KMS key that is no enabled symmetric one: name another alias")
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
        raise BadAwsSettings(f"{alias} was made by somebody else meanwhile: init again; {arn} is unused") from None
    return arn
