"""Our own KMS and DynamoDB beyond the contract suites: they are as strict as AWS where other stand-ins are not."""

import asyncio
import os
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from keyvault_server.backends.aws.calls import AwsClient
from keyvault_server.backends.aws.clients import open_clients
from keyvault_server.backends.aws.faults import AwsFault
from keyvault_server.backends.aws.kms import KmsKeyService
from keyvault_server.core.errors import (
    BackendThrottled,
    BackendUnavailable,
    MasterKeyUnusable,
    NotAuthorized,
    VaultError,
)
from keyvault_server.core.ports import WrappedBlob
from tests.server.backends.aws.standins.account import Account, account
from tests.server.backends.aws.standins.dynamodb import StandInDynamoDb
from tests.server.backends.aws.standins.service import BROKEN, EXPIRED, THROTTLED, UNAVAILABLE, AwsError
from tests.server.backends.aws.wire import Message, read_message
from tests.support.engines import options

pytestmark = pytest.mark.slow

KEY = {"pk": {"S": "acme#k"}}
CONTEXT = {"tenant": "t1"}


async def code_of(call: Awaitable[object]) -> str:
    """Return the error code that AWS answers."""
    try:
        await call
    except AwsFault as fault:
        return fault.code
    except VaultError as error:
        return str(error.__cause__).rpartition(": ")[2]
    return "OK"


@pytest.fixture
def kms(standin_clients: tuple[AwsClient, AwsClient]) -> AwsClient:
    return standin_clients[0]


@pytest.fixture
async def key(kms: AwsClient) -> str:
    """The ARN of a fresh symmetric key."""
    return str((await kms.call("create_key"))["KeyMetadata"]["Arn"])


@pytest.fixture
async def blob(kms: AwsClient, key: str) -> bytes:
    """A data key that this key wrapped."""
    made = await kms.call("generate_data_key", KeyId=key, KeySpec="AES_256", EncryptionContext=CONTEXT)
    return bytes(made["CiphertextBlob"])


def data_operations(kms: AwsClient, key: str, blob: bytes) -> dict[str, Callable[[], Awaitable[object]]]:
    """Return the calls that need a usable key."""
    destination: dict[str, Any] = {"DestinationKeyId": key, "DestinationEncryptionContext": CONTEXT}
    return {
        "generate": lambda: kms.call("generate_data_key", KeyId=key, KeySpec="AES_256", EncryptionContext=CONTEXT),
        "encrypt": lambda: kms.call("encrypt", KeyId=key, Plaintext=b"x", EncryptionContext=CONTEXT),
        "decrypt": lambda: kms.call("decrypt", CiphertextBlob=blob, EncryptionContext=CONTEXT),
        "decrypt named": lambda: kms.call("decrypt", KeyId=key, CiphertextBlob=blob, EncryptionContext=CONTEXT),
        "re-encrypt": lambda: kms.call(
            "re_encrypt", CiphertextBlob=blob, SourceEncryptionContext=CONTEXT, **destination
        ),
    }


@pytest.mark.parametrize(
    "context", [{"tenan": "tt1"}, {"tenant": "t"}, {"tenant": "t1", "": ""}, {"tenant": "", "t1": ""}, {}]
)
async def test_nothing_moves_between_the_parts_of_a_context(
    kms: AwsClient, blob: bytes, context: dict[str, str]
) -> None:
    assert await code_of(kms.call("decrypt", CiphertextBlob=blob, EncryptionContext=context)) == (
        "InvalidCiphertextException"
    )


async def test_the_order_of_a_context_does_not_matter(kms: AwsClient, key: str) -> None:
    made = await kms.call("encrypt", KeyId=key, Plaintext=b"x", EncryptionContext={"a": "1", "b": "2"})
    opened = await kms.call("decrypt", CiphertextBlob=made["CiphertextBlob"], EncryptionContext={"b": "2", "a": "1"})
    assert opened["Plaintext"] == b"x"


async def test_a_blob_with_any_byte_changed_or_missing_is_refused(kms: AwsClient, key: str, blob: bytes) -> None:
    changed = [blob[:at] + bytes([blob[at] ^ 1]) + blob[at + 1 :] for at in range(0, len(blob), 7)]
    for spoilt in (*changed, *(blob[:size] for size in (1, 4, 19, 20, 25, 32, len(blob) - 1))):
        answered = await code_of(kms.call("decrypt", KeyId=key, CiphertextBlob=spoilt, EncryptionContext=CONTEXT))
        assert answered == "InvalidCiphertextException"


@pytest.mark.parametrize(
    ("operation", "code"), [("disable_key", "DisabledException"), ("schedule_key_deletion", "KMSInvalidStateException")]
)
async def test_a_key_that_is_off_does_nothing_until_it_is_on_again(
    kms: AwsClient, key: str, blob: bytes, operation: str, code: str
) -> None:
    await kms.call(operation, KeyId=key)
    for attempt in data_operations(kms, key, blob).values():
        assert await code_of(attempt()) == code
    with pytest.raises(MasterKeyUnusable):
        await KmsKeyService(kms, {"1": key}).check()
    if operation == "schedule_key_deletion":
        assert await code_of(kms.call("enable_key", KeyId=key)) == "KMSInvalidStateException"
        await kms.call("cancel_key_deletion", KeyId=key)
        assert await code_of(data_operations(kms, key, blob)["decrypt"]()) == "DisabledException"
    await kms.call("enable_key", KeyId=key)
    for attempt in data_operations(kms, key, blob).values():
        assert await code_of(attempt()) == "OK"


async def test_a_blob_of_another_key_than_the_named_is_refused(kms: AwsClient, key: str, blob: bytes) -> None:
    """The error has its own code."""
    other = (await kms.call("create_key"))["KeyMetadata"]["Arn"]
    decrypt = kms.call("decrypt", KeyId=other, CiphertextBlob=blob, EncryptionContext=CONTEXT)
    assert await code_of(decrypt) == "IncorrectKeyException"
    given: dict[str, Any] = {"CiphertextBlob": blob, "SourceEncryptionContext": CONTEXT, "DestinationKeyId": other}
    assert await code_of(kms.call("re_encrypt", SourceKeyId=other, **given)) == "IncorrectKeyException"
    assert (await kms.call("re_encrypt", SourceKeyId=key, **given))["KeyId"] == other


@pytest.mark.parametrize("usage", [{"KeyUsage": "SIGN_VERIFY", "KeySpec": "ECC_NIST_P256"}, {"KeySpec": "RSA_2048"}])
async def test_a_key_for_something_else_wraps_nothing(kms: AwsClient, usage: dict[str, Any]) -> None:
    made = (await kms.call("create_key", **usage))["KeyMetadata"]["Arn"]
    generate = kms.call("generate_data_key", KeyId=made, KeySpec="AES_256")
    assert await code_of(generate) == "InvalidKeyUsageException"


async def test_a_key_is_named_by_id_arn_and_alias_and_by_nothing_else(kms: AwsClient, key: str) -> None:
    alias = "alias/" + os.urandom(4).hex()
    await kms.call("create_alias", AliasName=alias, TargetKeyId=key)
    for name in (key, key.rpartition("/")[2], alias, key.rpartition(":")[0] + ":" + alias):
        assert (await kms.call("describe_key", KeyId=name))["KeyMetadata"]["Arn"] == key
    assert await code_of(kms.call("create_alias", AliasName=alias, TargetKeyId=key)) == "AlreadyExistsException"
    for name in ("alias/none", key[:-1], key.replace("eu-central-1", "eu-west-1")):
        assert await code_of(kms.call("describe_key", KeyId=name)) == "NotFoundException"


@pytest.mark.parametrize(
    ("operation", "given"),
    [
        ("encrypt", {"Plaintext": b"x" * 4_097}),
        ("decrypt", {"CiphertextBlob": b"x" * 6_145}),
        ("generate_data_key", {"NumberOfBytes": 1_025}),
        ("generate_data_key", {"NumberOfBytes": 32, "KeySpec": "AES_256"}),
        ("generate_data_key", {}),
    ],
)
async def test_what_is_over_a_limit_is_refused(kms: AwsClient, key: str, operation: str, given: dict[str, Any]) -> None:
    assert await code_of(kms.call(operation, KeyId=key, **given)) == "ValidationException"


async def test_what_is_at_a_limit_is_not(kms: AwsClient, key: str) -> None:
    made = await kms.call("encrypt", KeyId=key, Plaintext=b"x" * 4_096)
    assert (await kms.call("decrypt", CiphertextBlob=made["CiphertextBlob"]))["Plaintext"] == b"x" * 4_096
    assert await code_of(kms.call("decrypt", CiphertextBlob=b"x" * 6_144)) == "InvalidCiphertextException"
    assert len((await kms.call("generate_data_key", KeyId=key, NumberOfBytes=1_024))["Plaintext"]) == 1_024


async def test_a_key_of_a_foreign_master_key_cannot_be_laundered(kms: AwsClient, key: str) -> None:
    """A server that did not pin ReEncrypt's source would wrap it under its own key."""
    theirs = (await kms.call("create_key"))["KeyMetadata"]["Arn"]
    context = {"keyvault:v": "1", "keyvault:tenant": "acme", "keyvault:scope": "prod/"}
    made = await kms.call("encrypt", KeyId=theirs, Plaintext=b"k" * 32, EncryptionContext=context)
    unpinned: dict[str, Any] = {
        "SourceEncryptionContext": context,
        "DestinationKeyId": key,
        "DestinationEncryptionContext": context,
    }
    assert await code_of(kms.call("re_encrypt", CiphertextBlob=made["CiphertextBlob"], **unpinned)) == "OK"
    keys = KmsKeyService(kms, {"1": key})
    for refuses in (keys.rewrap, keys.unwrap):
        with pytest.raises(NotAuthorized):
            await refuses("acme", "prod/", WrappedBlob("1", made["CiphertextBlob"]))


@dataclass(frozen=True)
class Own:
    """An account of one test, and clients."""

    account: Account
    kms: AwsClient
    dynamodb: AwsClient


@pytest.fixture
async def own(aws_identity: None) -> AsyncIterator[Own]:
    stale = StandInDynamoDb(stale=True)
    async with account(stale) as made, open_clients(options(made.kms_address, made.dynamodb_address)) as clients:
        await _create_table(clients[1], "keyvault")
        yield Own(made, *clients)


@pytest.fixture(scope="module")
async def dynamodb(standin_clients: tuple[AwsClient, AwsClient]) -> AwsClient:
    await _create_table(standin_clients[1], "conditions")
    return standin_clients[1]


async def _create_table(client: AwsClient, name: str) -> None:
    await client.call(
        "create_table",
        TableName=name,
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "pk", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )


async def test_an_inconsistent_read_may_be_one_write_late(own: Own) -> None:
    async def seen(**given: bool) -> object:
        reply = await own.dynamodb.call("get_item", TableName="keyvault", Key=KEY, **given)
        return reply.get("Item", {}).get("n", {}).get("N")

    for number in ("1", "2"):
        await own.dynamodb.call("put_item", TableName="keyvault", Item={**KEY, "n": {"N": number}})
        assert await seen(ConsistentRead=True) == number
        assert await seen() == await seen(ConsistentRead=False) == {"1": None, "2": "1"}[number]


def get_many(client: AwsClient, keys: list[dict[str, Any]], **given: Any) -> Awaitable[Mapping[str, Any]]:
    return client.call("batch_get_item", RequestItems={"keyvault": {"Keys": keys, **given}})


async def test_an_inconsistent_batch_may_be_one_write_late_too(own: Own) -> None:
    await own.dynamodb.call("put_item", TableName="keyvault", Item={**KEY, "n": {"N": "1"}})
    late = await get_many(own.dynamodb, [KEY])
    true = await get_many(own.dynamodb, [KEY], ConsistentRead=True)
    assert late["Responses"] == {"keyvault": []}
    assert true["Responses"] == {"keyvault": [{**KEY, "n": {"N": "1"}}]}


async def test_a_batch_has_1_to_100_keys_each_of_them_once(own: Own) -> None:
    keys = [{"pk": {"S": f"acme#{number}"}} for number in range(101)]
    assert (await get_many(own.dynamodb, keys[:100]))["UnprocessedKeys"] == {}
    for wrong in (keys, [KEY, KEY]):
        assert await code_of(get_many(own.dynamodb, wrong)) == "ValidationException"


async def test_a_batch_leaves_out_what_is_too_much_or_throttled(own: Own) -> None:
    """Too much is 16 MB. If every key is throttled, the batch is refused as a whole."""
    keys = [{"pk": {"S": f"acme#{number:02}"}} for number in range(43)]
    for key in keys:
        await own.dynamodb.call("put_item", TableName="keyvault", Item=key | {"body": {"B": b"x" * 400_000}})
    reply = await get_many(own.dynamodb, keys, ConsistentRead=True)
    assert len(reply["Responses"]["keyvault"]) == 16 * 1024 * 1024 // 400_017
    assert len(reply["UnprocessedKeys"]["keyvault"]["Keys"]) == 2
    own.account.dynamodb.throttles = lambda key: key == "acme#00"
    reply = await get_many(own.dynamodb, keys[:2])
    assert reply["UnprocessedKeys"]["keyvault"]["Keys"] == keys[:1]
    with pytest.raises(BackendThrottled):
        await get_many(own.dynamodb, keys[:1])


def put(client: AwsClient, item: dict[str, Any] | None = None, **given: Any) -> Awaitable[object]:
    return client.call("put_item", TableName="conditions", Item=KEY | (item or {}), **given)


@pytest.mark.parametrize(
    ("condition", "true"),
    [
        ("attribute_exists(#h)", True),
        ("NOT attribute_exists(#h)", False),
        ("NOT NOT attribute_exists(#h)", True),
        ("#h = :v", True),
        ("NOT #h = :v", False),
        ("attribute_not_exists(#n) AND #h = :v", True),
        ("attribute_exists(#n) OR #h = :v", True),
        ("attribute_exists(#h) OR attribute_exists(#h) AND attribute_exists(#n)", True),
        ("(attribute_exists(#h) OR attribute_exists(#h)) AND attribute_exists(#n)", False),
        ("NOT (attribute_exists(#n) OR attribute_not_exists(#h))", True),
        ("attribute_type(#h, :t)", True),
        ("attribute_type(#n, :t)", False),
        ("#n = :v", False),
    ],
)
async def test_conditions_mean_what_dynamodb_means(dynamodb: AwsClient, condition: str, true: bool) -> None:
    await put(dynamodb, {"h": {"B": b"head"}})
    names = {name: name[1:] for name in ("#h", "#n") if name in condition}
    values = {name: value for name, value in ((":v", {"B": b"head"}), (":t", {"S": "B"})) if name in condition}
    given: dict[str, Any] = {"ConditionExpression": condition, "ExpressionAttributeNames": names}
    if values:
        given["ExpressionAttributeValues"] = values
    answered = await code_of(put(dynamodb, **given))
    assert answered == ("OK" if true else "ConditionalCheckFailedException")


@pytest.mark.parametrize(
    "given",
    [
        {"ConditionExpression": "attribute_exists(#h)"},
        {"ConditionExpression": "#h = :v", "ExpressionAttributeNames": {"#h": "h"}},
        {"ConditionExpression": "attribute_exists(#h)", "ExpressionAttributeNames": {"#h": "h", "#n": "n"}},
        {"ConditionExpression": "begins(#h)", "ExpressionAttributeNames": {"#h": "h"}},
        {"ConditionExpression": "attribute_exists(#h", "ExpressionAttributeNames": {"#h": "h"}},
        {"ConditionExpression": "attribute_exists(#h) #h", "ExpressionAttributeNames": {"#h": "h"}},
        {"ConditionExpression": "attribute_exists(#h) AND", "ExpressionAttributeNames": {"#h": "h"}},
        {"ConditionExpression": "#h ; #h", "ExpressionAttributeNames": {"#h": "h"}},
        {
            "ConditionExpression": "attribute_exists(#h)",
            "ExpressionAttributeNames": {"#h": "h"},
            "ExpressionAttributeValues": {":v": {"S": "x"}},
        },
    ],
    ids=str,
)
async def test_a_condition_that_is_none_is_refused_whatever_is_stored(
    dynamodb: AwsClient, given: dict[str, Any]
) -> None:
    assert await code_of(put(dynamodb, **given)) == "ValidationException"


async def test_a_failed_condition_brings_the_item_if_asked(dynamodb: AwsClient) -> None:
    await put(dynamodb)
    for wanted, item in (("NONE", None), ("ALL_OLD", KEY)):
        with pytest.raises(AwsFault) as failed:
            await put(
                dynamodb,
                ConditionExpression="attribute_not_exists(#k)",
                ExpressionAttributeNames={"#k": "pk"},
                ReturnValuesOnConditionCheckFailure=wanted,
            )
        assert failed.value.reply.get("Item") == item


async def test_an_item_has_400_kilobytes_names_included(dynamodb: AwsClient) -> None:
    room = 409_600 - len("pk") - len("acme#k") - len("body")
    assert await code_of(put(dynamodb, {"body": {"B": b"x" * room}})) == "OK"
    assert await code_of(put(dynamodb, {"body": {"B": b"x" * (room + 1)}})) == "ValidationException"


@pytest.mark.parametrize("pk", [{"S": ""}, {"S": "x" * 2_049}, {"N": "1"}])
async def test_a_key_has_1_to_2048_bytes_of_text(dynamodb: AwsClient, pk: dict[str, str]) -> None:
    answered = await code_of(dynamodb.call("put_item", TableName="conditions", Item={"pk": pk}))
    assert answered == "ValidationException"


async def test_a_table_that_was_never_made_is_none(dynamodb: AwsClient) -> None:
    answered = await code_of(dynamodb.call("get_item", TableName="none", Key=KEY))
    assert answered == "ResourceNotFoundException"


@pytest.mark.parametrize(
    ("refusal", "meaning"),
    [
        (THROTTLED, BackendThrottled),
        (EXPIRED, BackendUnavailable),
        (BROKEN, BackendUnavailable),
        (UNAVAILABLE, BackendUnavailable),
    ],
    ids=lambda value: getattr(value, "code", None),
)
async def test_what_a_knob_refuses_is_not_done(own: Own, refusal: AwsError, meaning: type[VaultError]) -> None:
    made = own.account
    made.kms.knobs.refusal = made.dynamodb.knobs.refusal = refusal
    put_item = own.dynamodb.call("put_item", TableName="keyvault", Item=KEY)
    for attempt in (own.kms.call("create_key"), put_item):
        with pytest.raises(meaning):
            await attempt
    made.dynamodb.knobs.refusal = None
    reply = await own.dynamodb.call("get_item", TableName="keyvault", Key=KEY, ConsistentRead=True)
    assert "Item" not in reply
    assert made.kms.calls["CreateKey"] == made.dynamodb.calls["PutItem"] == 1


async def test_latency_is_what_a_call_takes_at_least(own: Own) -> None:
    own.account.dynamodb.knobs.latency = 0.3
    began = time.monotonic()
    await own.dynamodb.call("get_item", TableName="keyvault", Key=KEY)
    assert time.monotonic() - began >= 0.3


async def reply_to(address: str, **headers: str) -> Message:
    """Return the reply to a request that no SDK made."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(address.rpartition(":")[2]))
    lines = ["POST / HTTP/1.1", "content-length: 2", *(f"{name}: {value}" for name, value in headers.items())]
    writer.write("\r\n".join([*lines, "", "{}"]).encode())
    reply = await read_message(reader)
    writer.close()
    return reply


SIGNED = "AWS4-HMAC-SHA256 Credential=testing/20261125/eu-central-1/{}/aws4_request, SignedHeaders=host, Signature=" + (
    "0" * 64
)


async def test_an_unsigned_request_is_refused(standins: Account) -> None:
    target = {"x-amz-target": "TrentService.CreateKey", "content-type": "application/x-amz-json-1.1"}
    for signature in ({}, {"authorization": SIGNED.format("dynamodb")}):
        reply = await reply_to(standins.kms_address, **target, **signature)
        assert b"MissingAuthenticationToken" in reply.body
    assert b"KeyMetadata" in (await reply_to(standins.kms_address, **target, authorization=SIGNED.format("kms"))).body


async def test_replies_carry_what_the_services_send(standins: Account) -> None:
    for address, name, version in (
        (standins.kms_address, "kms", "1.1"),
        (standins.dynamodb_address, "dynamodb", "1.0"),
    ):
        reply = await reply_to(address, authorization=SIGNED.format(name))
        assert b"UnknownOperationException" in reply.body
        assert reply.headers["content-type"] == f"application/x-amz-json-{version}"
        assert reply.headers["x-amzn-requestid"]
        checksum = str(zlib.crc32(reply.body)) if name == "dynamodb" else None
        assert reply.headers.get("x-amz-crc32") == checksum
