"""What the ports raise for each reply of AWS, and of a proxy in between."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from keyvault_server.backends.aws.clients import open_clients
from keyvault_server.backends.aws.dynamodb import DynamoRecordStore
from keyvault_server.backends.aws.faults import AwsFault
from keyvault_server.backends.aws.kms import KmsKeyService
from keyvault_server.core.errors import (
    BackendThrottled,
    BackendUnavailable,
    MasterKeyUnusable,
    NotAuthorized,
    VaultError,
)
from keyvault_server.core.ports import HeadChanged, WrappedBlob
from keyvault_server.core.records import Record, StoredHead
from tests.server.backends.aws.stub import HALF, RESET, Answer, Reply, Stub, aws_error, stub
from tests.support.engines import options

pytestmark = [pytest.mark.usefixtures("aws_identity"), pytest.mark.slow]

ARN = "arn:aws:kms:eu-central-1:123456789012:key/11111111-2222-3333-4444-555555555555"
WRAPPED = WrappedBlob("1", b"\x01" * 100)
RECORD = Record(b"h" * 72, b"r" * 16, 1, 2, b"body")
HTML = b"<html><body>Sign in to the network</body></html>"
NO_ANSWERS: list[Answer] = [
    Reply(200, HTML, {"content-type": "text/html"}),
    Reply(200, b"", {}),
    Reply(200, b"{}", {}),
    Reply(200, b"[]"),
    Reply(200, b"null"),
    Reply(200, b"{", {"x-amzn-RequestId": "1"}),
    Reply(400, b"[]"),
    Reply(301, b"", {"location": "http://127.0.0.1:1/"}),
    Reply(403, HTML, {"content-type": "text/html"}),
    Reply(404, b"", {}),
    Reply(429, b"slow down", {}),
    Reply(500, b"", {}),
    Reply(502, HTML, {}),
    Reply(503, HTML, {"content-type": "text/html"}),
    aws_error("InternalServerError", 500),
    aws_error("KMSInternalException", 500),
    aws_error("DependencyTimeoutException", 503),
    aws_error("KeyUnavailableException", 500),
    aws_error("ExpiredTokenException"),
    RESET,
    HALF,
    Reply(body=b'{"\xff": 1}'),
    Reply(400, b'{"__type": 1}'),
    Reply(400, b'{"__type": "\xff"}'),
    Reply(400, b'{"__type": [], "message": {}}'),
    Reply(headers={"x-amzn-RequestId": "1", "x-amz-crc32": "no number"}),
    Reply(headers={"x-amzn-RequestId": "\x80"}),
]
NONSENSE = [
    b'{"Plaintext": "?", "CiphertextBlob": 1, "KeyMetadata": 1, "Item": 1, "Items": 1}',
    b'{"Plaintext": "\\ud800", "CiphertextBlob": [], "KeyMetadata": [], "Item": [], "Items": [1]}',
    b'{"Plaintext": {}, "CiphertextBlob": {}, "KeyMetadata": {"KeyState": {}}, "Item": {"head": 1}}',
    b'{"Items": [{"key_id": 1}]}',
    b'{"Items": [{}]}',
    b'{"Items": [{"key_id": {"N": "1"}}]}',
    b'{"Item": {"head": {"B": 5}}, "Items": [{"created": {"B": []}}]}',
    b'{"Item": {"head": {"B": "?"}, "format": "2"}, "Items": ["text"], "LastEvaluatedKey": "text"}',
    b'{"Item": null, "Items": null, "LastEvaluatedKey": null}',
    b'{"Items": [{"key_id": {"S": "prod/a"}, "created": {"S": "now"}}], "LastEvaluatedKey": {"pk": {"S": "acme#a"}}}',
]
"""JSON objects whose members have other types than AWS gives them."""
THROTTLES = [
    aws_error("ThrottlingException"),
    aws_error("ProvisionedThroughputExceededException"),
    aws_error("RequestLimitExceeded"),
    aws_error("LimitExceededException"),
]
OURS = ["ValidationException", "UnknownOperationException", "SerializationException"]
REJECTED = ["UnrecognizedClientException", "InvalidSignatureException", "IncompleteSignatureException", "OptInRequired"]
NEEDS = {
    "generate_data_key": f"kms:GenerateDataKey on {ARN}",
    "decrypt": f"kms:Decrypt on {ARN}",
    "re_encrypt": f"kms:ReEncryptFrom and kms:ReEncryptTo on {ARN}",
    "describe_key": f"kms:DescribeKey on {ARN}",
    "get_item": "dynamodb:GetItem on keyvault",
    "put_item": "dynamodb:PutItem on keyvault",
    "query": "dynamodb:Query on keyvault and names",
}
"""The permission of each operation, as policies name it."""


Line = tuple[KmsKeyService, DynamoRecordStore, Stub]
Say = Callable[..., Line]


@asynccontextmanager
async def answering(*answers: Answer) -> AsyncIterator[Line]:
    """Open both ports on a stub, without the checks of a start."""
    async with stub(*answers) as served, open_clients(options(served.address, served.address)) as (kms, dynamodb):
        yield KmsKeyService(kms, {"1": ARN}), DynamoRecordStore(dynamodb, "keyvault"), served


@pytest.fixture(scope="module")
async def line(aws_identity: None) -> AsyncIterator[Line]:
    async with answering(Reply()) as opened:
        yield opened


@pytest.fixture
def say(line: Line) -> Say:
    """Return both ports and a stub with these answers; all tests share them, since a client takes time to make."""

    def change(*answers: Answer) -> Line:
        line[2].answers[:] = answers
        line[2].requests.clear()
        return line

    return change


async def outcomes(keys: KmsKeyService, records: DynamoRecordStore) -> list[object]:
    """Return the outcome of each operation of both ports."""
    return await asyncio.gather(
        keys.generate("acme", "prod/"),
        keys.unwrap("acme", "prod/", WRAPPED),
        keys.rewrap("acme", "prod/", WRAPPED),
        keys.check(),
        records.get("acme", "k"),
        records.get_head("acme", "k"),
        records.put_if("acme", "k", RECORD, None),
        records.put_if("acme", "k", RECORD, RECORD.head),
        records.list_names("acme", "prod/", "", 10, deleted=False),
        records.check(),
        return_exceptions=True,
    )


@pytest.mark.parametrize("answer", NO_ANSWERS, ids=str)
async def test_an_unclear_answer_of_aws_is_unavailable_never_absent(answer: Answer, say: Say) -> None:
    keys, records, _ = say(answer)
    assert [type(outcome) for outcome in await outcomes(keys, records)] == [BackendUnavailable] * 10


@pytest.mark.parametrize("body", NONSENSE, ids=str)
async def test_nonsense_raises_nothing_but_errors_of_the_vault(body: bytes, say: Say) -> None:
    keys, records, _ = say(Reply(body=body))
    seen = await outcomes(keys, records)
    assert [outcome for outcome in seen if isinstance(outcome, Exception) and not isinstance(outcome, VaultError)] == []


@pytest.mark.parametrize("answer", THROTTLES, ids=str)
async def test_a_throttle_is_reported_as_one(answer: Reply, say: Say) -> None:
    keys, records, _ = say(answer)
    assert [type(outcome) for outcome in await outcomes(keys, records)] == [BackendThrottled] * 10


@pytest.mark.parametrize("answer", [*NO_ANSWERS, *THROTTLES], ids=str)
async def test_a_write_is_sent_once_whatever_comes_of_it(answer: Answer, say: Say) -> None:
    _, records, served = say(answer)
    with pytest.raises((BackendUnavailable, BackendThrottled)):
        await records.put_if("acme", "k", RECORD, None)
    assert [operation for operation, _ in served.requests].count("PutItem") == 1


@pytest.mark.parametrize("code", OURS)
async def test_faults_of_our_own_are_no_answer_for_a_caller(code: str, say: Say) -> None:
    """Only a bug of ours causes them, but that of a Query: the index it asks may be gone since the start."""
    keys, records, _ = say(aws_error(code))
    seen = await outcomes(keys, records)
    if code == "ValidationException":
        assert isinstance(seen.pop(-2), BackendUnavailable)
    for outcome in seen:
        assert isinstance(outcome, AwsFault)
        assert not isinstance(outcome, VaultError)
        assert code in str(outcome)
        assert "SECRET" not in str(outcome) + repr(outcome)


async def test_a_missing_permission_of_kms_is_the_operators_business(
    say: Say, caplog: pytest.LogCaptureFixture
) -> None:
    """Its callers see FAILED_PRECONDITION, those of the store UNAVAILABLE; the log names the permission."""
    keys, records, served = say(aws_error("AccessDeniedException"))
    seen = await outcomes(keys, records)
    assert [type(outcome) for outcome in seen[:4]] == [MasterKeyUnusable] * 4
    assert all(isinstance(outcome, BackendUnavailable) for outcome in seen[4:])
    assert len(served.requests) == len(seen), "what is denied is neither retried nor looked up"
    logged = {line.operation: line.needs for line in caplog.records}  # type: ignore[attr-defined]
    assert logged == NEEDS
    assert "SECRET" not in caplog.text + "".join(map(repr, seen))


async def test_a_denied_batch_names_its_permission(say: Say, caplog: pytest.LogCaptureFixture) -> None:
    """Readiness reads in both ways, so that a missing permission is seen before there is load."""
    _, records, served = say(Reply(), aws_error("AccessDeniedException"))
    with pytest.raises(BackendUnavailable):
        await records.check()
    assert [operation for operation, _ in served.requests] == ["GetItem", "BatchGetItem"]
    (line,) = caplog.records
    assert line.needs == "dynamodb:BatchGetItem on keyvault"  # type: ignore[attr-defined]


async def test_a_denied_rewrap_names_both_keys(say: Say, caplog: pytest.LogCaptureFixture) -> None:
    _, _, served = say(aws_error("AccessDeniedException"))
    other = ARN.replace("1111", "9999")
    async with open_clients(options(served.address, served.address)) as (kms, _dynamodb):
        with pytest.raises(MasterKeyUnusable):
            await KmsKeyService(kms, {"new": other, "1": ARN}).rewrap("acme", "prod/", WRAPPED)
    (line,) = caplog.records
    assert line.needs == f"kms:ReEncryptFrom and kms:ReEncryptTo on {ARN} and {other}"  # type: ignore[attr-defined]


@pytest.mark.parametrize("code", REJECTED)
async def test_rejected_credentials_are_unavailable(code: str, say: Say, caplog: pytest.LogCaptureFixture) -> None:
    keys, records, served = say(aws_error(code))
    seen = await outcomes(keys, records)
    assert all(isinstance(outcome, BackendUnavailable) for outcome in seen)
    assert len(served.requests) == len(seen), "what is rejected is neither retried nor looked up"
    assert {line.code for line in caplog.records} == {f"credentials: {code}"}  # type: ignore[attr-defined]


async def test_a_table_that_was_deleted_is_unavailable(say: Say) -> None:
    keys, records, _ = say(aws_error("ResourceNotFoundException"))
    assert all(isinstance(outcome, BackendUnavailable) for outcome in (await outcomes(keys, records))[4:])


@pytest.mark.parametrize(
    "code", ["DisabledException", "KMSInvalidStateException", "NotFoundException", "InvalidKeyUsageException"]
)
async def test_an_unusable_master_key_is_the_operators_business(code: str, say: Say) -> None:
    keys, records, _ = say(aws_error(code))
    assert [type(outcome) for outcome in (await outcomes(keys, records))[:4]] == [MasterKeyUnusable] * 4


@pytest.mark.parametrize("code", ["InvalidCiphertextException", "IncorrectKeyException"])
async def test_a_blob_that_kms_refuses_is_not_authorised(code: str, say: Say) -> None:
    keys, _, _ = say(aws_error(code))
    with pytest.raises(NotAuthorized):
        await keys.unwrap("acme", "prod/", WRAPPED)
    with pytest.raises(NotAuthorized):
        await keys.rewrap("acme", "prod/", WRAPPED)


@pytest.mark.parametrize("blob", [b"", b"\x01" * 6_145])
async def test_a_blob_that_kms_would_not_look_at_makes_no_call(blob: bytes, say: Say) -> None:
    keys, _, served = say(Reply())
    for wrapped in (WrappedBlob("1", blob), WrappedBlob("2", b"\x01" * 100)):
        with pytest.raises(NotAuthorized):
            await keys.unwrap("acme", "prod/", wrapped)
        with pytest.raises(NotAuthorized):
            await keys.rewrap("acme", "prod/", wrapped)
    assert served.requests == []


@pytest.mark.parametrize("blob", [b"\x01", b"\x01" * 6_144], ids=len)
async def test_a_blob_of_any_size_that_kms_takes_is_sent(blob: bytes, say: Say) -> None:
    keys, _, served = say(aws_error("InvalidCiphertextException"))
    for call in (keys.unwrap, keys.rewrap):
        with pytest.raises(NotAuthorized):
            await call("acme", "prod/", WrappedBlob("1", blob))
    assert [operation for operation, _ in served.requests] == ["Decrypt", "ReEncrypt"]


@pytest.mark.parametrize("size", [16, 31, 33])
async def test_a_data_key_of_another_size_is_refused(size: int, say: Say) -> None:
    plaintext = base64.b64encode(b"k" * size).decode()
    body = json.dumps({"Plaintext": plaintext, "CiphertextBlob": plaintext, "KeyId": ARN}).encode()
    keys, _, _ = say(Reply(body=body))
    with pytest.raises(NotAuthorized):
        await keys.unwrap("acme", "prod/", WRAPPED)
    with pytest.raises(BackendUnavailable):
        await keys.generate("acme", "prod/")


@pytest.mark.parametrize("state", ["Disabled", "PendingDeletion", "PendingImport", "Unavailable", None])
async def test_a_master_key_in_another_state_than_enabled_is_not_ready(state: str | None, say: Say) -> None:
    body = json.dumps({"KeyMetadata": {"KeyId": "1", "KeyState": state}}).encode()
    keys, _, _ = say(Reply(body=body))
    with pytest.raises(MasterKeyUnusable):
        await keys.check()


async def test_a_failed_condition_without_item_is_looked_up(say: Say) -> None:
    """The look-up is a consistent read."""
    stored = {
        name: {"B": base64.b64encode(value).decode()} for name, value in (("head", b"x" * 72), ("ring", b"r" * 16))
    }
    item = {**stored, "format": {"N": "2"}, "created": {"N": "5"}, "updated": {"N": "6"}}
    answers = aws_error("ConditionalCheckFailedException"), Reply(body=json.dumps({"Item": item}).encode())
    _, records, served = say(*answers)
    with pytest.raises(HeadChanged) as refused:
        await records.put_if("acme", "k", RECORD, RECORD.head)
    assert refused.value.stored == StoredHead(b"x" * 72, b"r" * 16, 5, 6)
    assert [operation for operation, _ in served.requests] == ["PutItem", "GetItem"]
    assert json.loads(served.requests[1][1])["ConsistentRead"] is True


async def test_a_failed_condition_without_a_look_up_is_unknown(say: Say) -> None:
    _, records, _ = say(aws_error("ConditionalCheckFailedException"), RESET)
    with pytest.raises(BackendUnavailable):
        await records.put_if("acme", "k", RECORD, RECORD.head)


def batch_reply(responses: object, unprocessed: object = None) -> Reply:
    return Reply(body=json.dumps({"Responses": responses, "UnprocessedKeys": unprocessed or {}}).encode())


async def read_two(records: DynamoRecordStore) -> list[Record | None]:
    """Read k2 and k3 at once, in a batch."""
    return await asyncio.gather(*(records.get("acme", f"k{number}") for number in (2, 3)))


def item(key_id: str) -> dict[str, dict[str, str]]:
    return {"pk": {"S": f"acme#{key_id}"}, "created": {"N": key_id[1:]}}


async def test_reads_that_wait_are_one_consistent_batch(say: Say) -> None:
    """Its items come in any order, and those that do not exist are missing."""
    _, records, served = say(batch_reply({"keyvault": [item("k3")]}), Reply(500))
    found = await read_two(records)
    assert [record and record.created for record in found] == [None, 3]
    ((operation, body),) = served.requests
    assert operation == "BatchGetItem"
    keys = [{"pk": {"S": f"acme#k{number}"}} for number in (2, 3)]
    assert json.loads(body) == {"RequestItems": {"keyvault": {"Keys": keys, "ConsistentRead": True}}}


async def test_heads_are_gathered_too_and_without_bodies(say: Say) -> None:
    _, records, served = say(batch_reply({"keyvault": [item("k3")]}), Reply(500))
    found = await asyncio.gather(*(records.get_head("acme", f"k{number}") for number in (2, 3)))
    assert [head and head.created for head in found] == [None, 3]
    wanted = json.loads(served.requests[0][1])["RequestItems"]["keyvault"]
    assert wanted["ConsistentRead"] is True
    assert "body" not in wanted["ExpressionAttributeNames"].values()


UNCLEAR = [
    batch_reply({"keyvault": [item("k3")]}, {"keyvault": {"Keys": [{"pk": {"S": "acme#k2"}}]}}),
    batch_reply({"keyvault": [item("k3"), item("k9")]}),
    batch_reply({"keyvault": [item("k3"), {}]}),
    batch_reply({"keyvault": [item("k3")]}, {"keyvault": {"Keys": [{"pk": {"S": "acme#k9"}}]}}),
    batch_reply({}),
    batch_reply({"another": []}),
]
"""Replies that do not say what became of each key."""


@pytest.mark.parametrize("reply", UNCLEAR, ids=str)
async def test_a_key_that_a_batch_left_out_is_asked_for_alone(reply: Reply, say: Say) -> None:
    """It is never taken for absent."""
    _, records, served = say(reply, Reply(body=json.dumps({"Item": item("k5")}).encode()))
    found = await read_two(records)
    assert found[0] is not None
    assert found[0].created == 5
    assert [operation for operation, _ in served.requests][:2] == ["BatchGetItem", "GetItem"]


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b'{"Responses": {"keyvault": []}}',
        b'{"UnprocessedKeys": {}}',
        b'{"Responses": null, "UnprocessedKeys": {}}',
        b'{"Responses": {"keyvault": {}}, "UnprocessedKeys": "text"}',
        b'{"Responses": {"keyvault": [1]}, "UnprocessedKeys": {"keyvault": {"Keys": [1]}}}',
        b'{"Responses": {"keyvault": []}, "UnprocessedKeys": {"keyvault": {}}}',
    ],
)
async def test_a_batch_reply_without_its_members_is_unavailable(body: bytes, say: Say) -> None:
    _, records, _ = say(Reply(body=body))
    with pytest.raises(BackendUnavailable):
        await read_two(records)


async def test_a_reply_with_a_wrong_checksum_is_unavailable(say: Say) -> None:
    _, records, _ = say(Reply(headers={"x-amzn-RequestId": "1", "x-amz-crc32": "1"}))
    with pytest.raises(BackendUnavailable):
        await records.get("acme", "k")


@pytest.mark.slow
async def test_nobody_listening_is_unavailable() -> None:
    async with stub(Reply()) as gone:
        pass
    async with open_clients(options(gone.address, gone.address)) as (kms, dynamodb):
        keys, records = KmsKeyService(kms, {"1": ARN}), DynamoRecordStore(dynamodb, "keyvault")
        assert [type(outcome) for outcome in await outcomes(keys, records)] == [BackendUnavailable] * 10


async def test_the_log_names_operation_and_code_and_no_text_of_aws(caplog: pytest.LogCaptureFixture, say: Say) -> None:
    keys, _, _ = say(aws_error("DisabledException"))
    with caplog.at_level("DEBUG", "keyvault_server"), pytest.raises(MasterKeyUnusable):
        await keys.unwrap("acme", "prod/", WRAPPED)
    (line,) = [record for record in caplog.records if record.name.startswith("keyvault_server")]
    assert (line.operation, line.code) == ("decrypt", "DisabledException")  # type: ignore[attr-defined]
    assert "SECRET" not in caplog.text
