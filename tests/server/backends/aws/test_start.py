"""What a start refuses, with one line, and what `init` makes."""

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any

import pytest

from keyvault_server.backends.aws.calls import AwsClient
from keyvault_server.backends.aws.clients import open_aws, open_clients
from keyvault_server.backends.aws.options import AwsOptions
from keyvault_server.backends.aws.setup import create_backend
from keyvault_server.core.errors import OperatorError
from tests.server.backends.aws.standins.account import Account
from tests.server.backends.aws.stub import RESET, Answer, Reply, aws_error, stub
from tests.support.engines import options
from tests.support.listed import record_of

Clients = tuple[AwsClient, AwsClient]
ARN = "arn:aws:kms:eu-central-1:123456789012:key/11111111-2222-3333-4444-555555555555"
OUR_KEY = {
    "KeySchema": [{"AttributeName": "pk", "KeyType": "HASH"}],
    "AttributeDefinitions": [{"AttributeName": name, "AttributeType": "S"} for name in ("listed", "key_id", "pk")],
}
OUR_INDEX: dict[str, Any] = {
    "IndexName": "names",
    "IndexStatus": "ACTIVE",
    "KeySchema": [{"AttributeName": "listed", "KeyType": "HASH"}, {"AttributeName": "key_id", "KeyType": "RANGE"}],
    "Projection": {"ProjectionType": "INCLUDE", "NonKeyAttributes": ["created"]},
}
NO_TTL = {"TimeToLiveDescription": {"TimeToLiveStatus": "DISABLED"}}


async def refusal(given: AwsOptions) -> str:
    """Return the one line with which a start with these options is refused."""
    with pytest.raises(OperatorError) as refused:
        async with open_aws(given):
            pass
    assert "\n" not in str(refused.value)
    return str(refused.value)


def answer(content: Mapping[str, Any]) -> Reply:
    return Reply(body=json.dumps(content).encode())


async def refusal_of(*answers: Answer) -> str | None:
    """Return why a start is refused to which DescribeTable and DescribeTimeToLive answer this; None if it goes on."""
    async with stub(*answers) as served:
        given = options(served.address, served.address, master_keys={"1": ARN})
        try:
            async with open_aws(given):
                return None
        except OperatorError as refused:
            return str(refused)


def table(**more: object) -> Reply:
    ours = {**OUR_KEY, "TableStatus": "ACTIVE", "GlobalSecondaryIndexes": [OUR_INDEX]}
    return answer({"Table": {**ours, **more}})


@pytest.mark.parametrize(
    "name",
    [
        "alias/keyvault",
        "arn:aws:kms:eu-central-1:123456789012:alias/keyvault",
        "11111111-2222-3333-4444-555555555555",
        "arn:aws:kms:eu-central-1:123456789012:key/*",
        "arn:aws:kms:*:*:key/11111111-2222-3333-4444-555555555555",
        ARN + "\n",
        "",
    ],
)
async def test_a_master_key_is_named_by_its_whole_arn(moto_options: AwsOptions, name: str) -> None:
    assert "whole key ARN" in await refusal(dataclasses.replace(moto_options, master_keys={"1": name}))


@pytest.mark.parametrize("label", ["", "ü" * 128, "\ud800", "a\nb"])
async def test_a_label_is_1_to_255_bytes_of_text(moto_options: AwsOptions, label: str) -> None:
    assert "label" in await refusal(dataclasses.replace(moto_options, master_keys={label: ARN}))


async def test_a_label_of_255_bytes_is_one(moto_options: AwsOptions) -> None:
    longest = "ü" * 127 + "x"
    async with open_aws(
        dataclasses.replace(moto_options, master_keys={longest: moto_options.master_keys["1"]})
    ) as ports:
        assert (await ports[0].generate("acme", "prod/")).wrapped.label == longest


async def test_some_master_key_has_to_be_named(moto_options: AwsOptions) -> None:
    assert "KEYVAULT_AWS_MASTER_KEYS" in await refusal(dataclasses.replace(moto_options, master_keys={}))


async def test_a_master_key_of_another_region_is_refused(moto_options: AwsOptions) -> None:
    elsewhere = {"1": ARN.replace("eu-central-1", "us-east-1")}
    said = await refusal(dataclasses.replace(moto_options, master_keys=elsewhere))
    assert elsewhere["1"] in said
    assert "another region than eu-central-1 of KEYVAULT_AWS_REGION" in said


async def test_the_region_comes_from_the_master_keys(moto_options: AwsOptions) -> None:
    async with open_aws(dataclasses.replace(moto_options, region=None)) as (keys, _):
        await keys.check()


@pytest.mark.parametrize("variable", ["AWS_REGION", "AWS_DEFAULT_REGION"])
async def test_a_region_of_the_environment_that_disagrees_is_refused(
    moto_options: AwsOptions, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """The setting is the way out: it overrides what is meant for other programs."""
    monkeypatch.setenv(variable, "us-east-1")
    said = await refusal(dataclasses.replace(moto_options, region=None))
    assert "another region than us-east-1 of AWS_REGION, AWS_DEFAULT_REGION or the AWS profile" in said
    assert "set KEYVAULT_AWS_REGION" in said
    async with open_aws(moto_options) as (keys, _):
        await keys.check()


async def test_master_keys_of_two_regions_are_refused(moto_options: AwsOptions) -> None:
    both = {"1": ARN, "2": ARN.replace("eu-central-1", "us-east-1")}
    said = await refusal(dataclasses.replace(moto_options, region=None, master_keys=both))
    assert "KEYVAULT_AWS_MASTER_KEYS: 2: " in said
    assert "another region than eu-central-1 of master key 1" in said


async def test_init_needs_a_region_from_somewhere(aws_identity: None) -> None:
    with pytest.raises(OperatorError, match="set KEYVAULT_AWS_REGION"):
        await create_backend(options(None, None, region=None), "alias/keyvault")


@pytest.mark.parametrize("variable", ["AWS_REGION", "AWS_DEFAULT_REGION"])
async def test_the_region_may_come_from_the_environment(
    moto: str, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "eu-central-1")
    given = options(moto, moto, region=None, table="t" + os.urandom(4).hex())
    assert ":eu-central-1:" in await create_backend(given, "alias/" + given.table)


async def test_an_invalid_region_is_named(aws_identity: None) -> None:
    with pytest.raises(OperatorError, match="'no region'"):
        await create_backend(options(None, None, region="no region"), "alias/keyvault")


@pytest.mark.parametrize("url", ["no url", "https://", "127.0.0.1:8000", "http://127.0.0.1:x"])
async def test_an_endpoint_that_is_not_a_url_is_named(moto_options: AwsOptions, url: str) -> None:
    said = await refusal(dataclasses.replace(moto_options, kms_endpoint=url))
    assert f"KEYVAULT_AWS_KMS_ENDPOINT: '{url}': must be a URL" in said


async def test_an_endpoint_of_the_sdk_that_is_not_a_url_is_named(
    moto_options: AwsOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", "no url")
    assert "check AWS_ENDPOINT_URL" in await refusal(dataclasses.replace(moto_options, kms_endpoint=None))


async def test_a_missing_bundle_is_named(moto_options: AwsOptions) -> None:
    missing = dataclasses.replace(moto_options, dynamodb_endpoint="https://127.0.0.1:1", ca_bundle="/no/such.pem")
    assert "No such file or directory" in await refusal(missing)


async def test_plaintext_to_another_machine_is_always_refused(
    moto_options: AwsOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = "http://10.0.0.1:8000"
    for asked in (
        dataclasses.replace(moto_options, kms_endpoint=elsewhere),
        dataclasses.replace(moto_options, dynamodb_endpoint=elsewhere),
    ):
        assert "http://10.0.0.1: the endpoint of AWS" in await refusal(asked)
    monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", elsewhere)
    assert "must be https" in await refusal(dataclasses.replace(moto_options, kms_endpoint=None))


async def test_a_missing_table_is_refused(moto_options: AwsOptions) -> None:
    assert "keyvault-server init" in await refusal(dataclasses.replace(moto_options, table="missing"))


@pytest.mark.parametrize(
    ("names", "kind"),
    [({"other": "HASH"}, "S"), ({"pk": "HASH"}, "B"), ({"pk": "HASH", "sk": "RANGE"}, "S")],
)
async def test_a_table_with_another_key_is_refused(
    moto_options: AwsOptions, moto_clients: Clients, names: dict[str, str], kind: str
) -> None:
    name = "t" + os.urandom(4).hex()
    await moto_clients[1].call(
        "create_table",
        TableName=name,
        KeySchema=[{"AttributeName": key, "KeyType": role} for key, role in names.items()],
        AttributeDefinitions=[{"AttributeName": key, "AttributeType": kind} for key in names],
        BillingMode="PAY_PER_REQUEST",
    )
    assert "partition key pk" in await refusal(dataclasses.replace(moto_options, table=name))
    with pytest.raises(OperatorError, match="partition key pk"):
        await create_backend(dataclasses.replace(moto_options, table=name), "alias/keyvault")


async def test_a_table_that_deletes_by_itself_is_refused(moto_options: AwsOptions, moto_clients: Clients) -> None:
    given = dataclasses.replace(moto_options, table="t" + os.urandom(4).hex())
    await create_backend(given, "alias/keyvault")
    ttl = {"Enabled": True, "AttributeName": "updated"}
    await moto_clients[1].call("update_time_to_live", TableName=given.table, TimeToLiveSpecification=ttl)
    assert "TTL" in await refusal(given)


@pytest.mark.slow
@pytest.mark.parametrize("status", ["ENABLING", "DISABLING"])
async def test_a_ttl_that_comes_or_goes_is_refused_as_well(aws_identity: None, status: str) -> None:
    ttl = answer({"TimeToLiveDescription": {"TimeToLiveStatus": status}})
    assert status in str(await refusal_of(table(), ttl))


@pytest.mark.slow
async def test_an_engine_without_ttl_is_served_from(aws_identity: None) -> None:
    assert await refusal_of(table(), aws_error("UnknownOperationException")) is None
    said = str(await refusal_of(table(), aws_error("AccessDeniedException")))
    assert "may not describe_time_to_live: it needs dynamodb:DescribeTimeToLive on keyvault" in said


@pytest.mark.slow
@pytest.mark.parametrize("sign", [{"Replicas": [{"RegionName": "us-east-1"}]}, {"GlobalTableVersion": "2017.11.29"}])
async def test_a_global_table_is_refused_unless_strongly_consistent(
    aws_identity: None, sign: dict[str, object]
) -> None:
    assert "global table" in str(await refusal_of(table(**sign), answer(NO_TTL)))
    assert "global table" in str(await refusal_of(table(**sign, MultiRegionConsistency="EVENTUAL"), answer(NO_TTL)))
    assert await refusal_of(table(**sign, MultiRegionConsistency="STRONG"), answer(NO_TTL)) is None


@pytest.mark.slow
async def test_a_table_that_is_not_ready_is_refused(aws_identity: None) -> None:
    assert await refusal_of(table(TableStatus="UPDATING"), answer(NO_TTL)) is None
    for status in ("CREATING", "DELETING", "ARCHIVED", "INACCESSIBLE_ENCRYPTION_CREDENTIALS"):
        assert status in str(await refusal_of(table(TableStatus=status), answer(NO_TTL)))


@pytest.mark.slow
async def test_a_table_without_the_index_of_names_is_refused(aws_identity: None) -> None:
    """An index that shows more would be written by each Update."""
    other = {"IndexName": "others"}
    assert await refusal_of(table(GlobalSecondaryIndexes=[other, OUR_INDEX]), answer(NO_TTL)) is None
    for indexes in ([], None, [other]):
        said = await refusal_of(table(GlobalSecondaryIndexes=indexes), answer(NO_TTL))
        assert said == "table keyvault has no index names: `keyvault-server init` makes it"
    changes: list[dict[str, Any]] = [
        {"Projection": {"ProjectionType": "ALL"}},
        {"Projection": {"ProjectionType": "KEYS_ONLY"}},
        {"Projection": {"ProjectionType": "INCLUDE", "NonKeyAttributes": ["created", "updated"]}},
        {"KeySchema": OUR_INDEX["KeySchema"][:1]},
        {"KeySchema": OUR_INDEX["KeySchema"][::-1]},
    ]
    for change in changes:
        said = str(await refusal_of(table(GlobalSecondaryIndexes=[OUR_INDEX | change]), answer(NO_TTL)))
        assert said.startswith("index names of table keyvault must have the keys listed and key_id and project created")
    for status in ("CREATING", "UPDATING", "DELETING"):
        made = OUR_INDEX | {"IndexStatus": status}
        said = str(await refusal_of(table(GlobalSecondaryIndexes=[made]), answer(NO_TTL)))
        assert said == f"index names of table keyvault is {status}: wait until it is ACTIVE"


async def make_table_without_index(given: AwsOptions, **capacity: Any) -> None:
    async with open_clients(given) as (_, dynamodb):
        await dynamodb.call(
            "create_table",
            TableName=given.table,
            KeySchema=OUR_KEY["KeySchema"],
            AttributeDefinitions=[{"AttributeName": "pk", "AttributeType": "S"}],
            **capacity,
        )


async def add_index(given: AwsOptions) -> None:
    """Let `init` add the index, and list by it."""
    arn = await create_backend(given, "alias/" + given.table)
    async with open_aws(dataclasses.replace(given, master_keys={"1": arn})) as (_, records):
        await records.put_if("acme", "prod/db", record_of("prod/db", created=7), None)
        assert (await records.list_names("acme", "prod/", "", 10, deleted=False)).names == [("prod/db", 7)]


@pytest.mark.medium
async def test_init_adds_the_index_to_a_table_without_one(standins: Account) -> None:
    given = options(standins.kms_address, standins.dynamodb_address, table="t" + os.urandom(4).hex())
    await make_table_without_index(given, BillingMode="PAY_PER_REQUEST")
    await add_index(given)


async def test_an_added_index_has_the_capacity_of_its_table(moto: str) -> None:
    given = options(moto, moto, table="t" + os.urandom(4).hex())
    capacity = {"ReadCapacityUnits": 7, "WriteCapacityUnits": 8}
    await make_table_without_index(given, ProvisionedThroughput=capacity)
    await add_index(given)
    async with open_clients(given) as (_, dynamodb):
        (index,) = (await dynamodb.call("describe_table", TableName=given.table))["Table"]["GlobalSecondaryIndexes"]
    assert {name: index["ProvisionedThroughput"][name] for name in capacity} == capacity


@pytest.mark.slow
async def test_a_start_while_aws_does_not_answer_is_refused(aws_identity: None) -> None:
    assert "describe_table: ConnectionClosedError" in str(await refusal_of(RESET))
    assert "it needs dynamodb:DescribeTable on" in str(await refusal_of(aws_error("AccessDeniedException")))
    assert "SECRET" not in str(await refusal_of(aws_error("AccessDeniedException")))


@pytest.mark.slow
async def test_init_makes_a_table_and_a_key_and_does_so_once(moto: str) -> None:
    given = options(moto, moto, table="t" + os.urandom(4).hex())
    alias = "alias/" + given.table
    first = await create_backend(given, alias)
    assert await create_backend(given, alias) == first
    async with open_clients(given) as (kms, dynamodb):
        described = (await dynamodb.call("describe_table", TableName=given.table))["Table"]
        backups = (await dynamodb.call("describe_continuous_backups", TableName=given.table))[
            "ContinuousBackupsDescription"
        ]
        key = (await kms.call("describe_key", KeyId=first))["KeyMetadata"]
        aliases = (await kms.call("list_aliases", KeyId=first))["Aliases"]
    assert described["BillingModeSummary"]["BillingMode"] == "PAY_PER_REQUEST"
    assert described["DeletionProtectionEnabled"] is True
    assert backups["PointInTimeRecoveryDescription"]["PointInTimeRecoveryStatus"] == "ENABLED"
    assert (key["KeySpec"], key["KeyUsage"]) == ("SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT")
    assert [entry["AliasName"] for entry in aliases] == [alias]


async def test_what_init_made_can_be_served_from(moto: str) -> None:
    given = options(moto, moto, table="t" + os.urandom(4).hex())
    arn = await create_backend(given, "alias/" + given.table)
    async with open_aws(dataclasses.replace(given, master_keys={"1": arn})) as (keys, records):
        await keys.check()
        await records.check()


async def test_init_keeps_to_aliases_and_to_keys_that_can_wrap(moto: str, moto_clients: Clients) -> None:
    given = options(moto, moto)
    with pytest.raises(OperatorError, match="alias/"):
        await create_backend(given, "keyvault")
    made = await moto_clients[0].call("create_key", KeySpec="RSA_2048", KeyUsage="ENCRYPT_DECRYPT")
    await moto_clients[0].call("create_alias", AliasName="alias/rsa", TargetKeyId=made["KeyMetadata"]["KeyId"])
    with pytest.raises(OperatorError, match="symmetric"):
        await create_backend(given, "alias/rsa")


async def test_init_says_in_one_line_what_aws_does_not_allow(aws_identity: None) -> None:
    async with stub(aws_error("AccessDeniedException")) as served:
        with pytest.raises(
            OperatorError, match="the role may not create_table: it needs dynamodb:CreateTable on keyvault"
        ):
            await create_backend(options(served.address, served.address), "alias/keyvault")


@pytest.mark.medium
async def test_init_makes_no_key_where_it_may_not_look_for_one(aws_identity: None) -> None:
    """An alias that cannot be looked up may exist."""
    looks = [table()] * 3  # at the table, for the index, and at the index
    store = answer({}), *looks, answer({}), table(), answer(NO_TTL)  # create, wait, enable backups, two looks
    async with stub(aws_error("AccessDeniedException")) as kms, stub(*store) as dynamodb:
        with pytest.raises(OperatorError, match="it needs kms:DescribeKey on alias/keyvault"):
            await create_backend(options(kms.address, dynamodb.address), "alias/keyvault")
    assert [operation for operation, _ in kms.requests] == ["DescribeKey"]
