"""What is sent to KMS: moto does not check all that KMS checks, so the tests compare the parameters themselves."""

import base64
import json
import logging
from collections.abc import AsyncIterator

import pytest

from keyvault_server.backends.aws.calls import AwsClient
from keyvault_server.backends.aws.clients import open_aws, open_clients
from keyvault_server.backends.aws.kms import KmsKeyService
from keyvault_server.backends.aws.options import AwsOptions
from keyvault_server.core.errors import NotAuthorized
from keyvault_server.core.ports import WrappedBlob
from tests.server.backends.aws.stub import Reply, Stub, stub
from tests.support.engines import options

pytestmark = pytest.mark.slow

NEW = "arn:aws:kms:eu-central-1:123456789012:key/11111111-1111-1111-1111-111111111111"
OLD = "arn:aws:kms:eu-central-1:123456789012:key/22222222-2222-2222-2222-222222222222"
CONTEXT = {"keyvault:v": "1", "keyvault:tenant": "acme", "keyvault:scope": "prod/billing/"}
DATA_KEY = b"a data key of exactly 32 bytes .."[:32]
BLOB = b"the blob"
ENCODED_KEY, ENCODED_BLOB = (base64.b64encode(value).decode() for value in (DATA_KEY, BLOB))


@pytest.fixture
async def served(aws_identity: None) -> AsyncIterator[Stub]:
    metadata = {"KeyId": "1", "KeyState": "Enabled"}
    answer = {"Plaintext": ENCODED_KEY, "CiphertextBlob": ENCODED_BLOB, "KeyMetadata": metadata}
    async with stub(Reply(body=json.dumps(answer).encode())) as made:
        yield made


@pytest.fixture
async def keys(served: Stub) -> AsyncIterator[KmsKeyService]:
    async with open_clients(options(served.address, served.address)) as (kms, _):
        yield KmsKeyService(kms, {"new": NEW, "old": OLD})


def sent(served: Stub) -> tuple[str, dict[str, object]]:
    ((operation, body),) = served.requests
    return operation, json.loads(body)


async def test_generate_names_the_first_master_key_and_the_context(keys: KmsKeyService, served: Stub) -> None:
    made = await keys.generate("acme", "prod/billing/")
    assert (made.plaintext, made.wrapped) == (DATA_KEY, WrappedBlob("new", BLOB))
    assert sent(served) == ("GenerateDataKey", {"KeyId": NEW, "KeySpec": "AES_256", "EncryptionContext": CONTEXT})


async def test_decrypt_is_pinned_to_the_labels_master_key(keys: KmsKeyService, served: Stub) -> None:
    assert await keys.unwrap("acme", "prod/billing/", WrappedBlob("old", BLOB)) == DATA_KEY
    expected = {"KeyId": OLD, "CiphertextBlob": ENCODED_BLOB, "EncryptionContext": CONTEXT}
    assert sent(served) == ("Decrypt", expected)


@pytest.mark.parametrize(("label", "source"), [("old", OLD), ("new", NEW)])
async def test_reencrypt_is_pinned_at_both_ends(keys: KmsKeyService, served: Stub, label: str, source: str) -> None:
    assert await keys.rewrap("acme", "prod/billing/", WrappedBlob(label, BLOB)) == WrappedBlob("new", BLOB)
    assert sent(served) == (
        "ReEncrypt",
        {
            "SourceKeyId": source,
            "SourceEncryptionContext": CONTEXT,
            "CiphertextBlob": ENCODED_BLOB,
            "DestinationKeyId": NEW,
            "DestinationEncryptionContext": CONTEXT,
        },
    )


async def test_readiness_asks_for_the_minting_master_keys_state(keys: KmsKeyService, served: Stub) -> None:
    await keys.check()
    assert sent(served) == ("DescribeKey", {"KeyId": NEW})


async def test_a_label_that_nobody_configured_is_not_sent(keys: KmsKeyService, served: Stub) -> None:
    for refused in (keys.unwrap, keys.rewrap):
        with pytest.raises(NotAuthorized):
            await refused("acme", "prod/billing/", WrappedBlob("other", BLOB))
    assert served.requests == []


async def test_our_log_shows_no_data_key_and_no_blob(keys: KmsKeyService, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    caplog.set_level(logging.DEBUG, "keyvault_server")
    made = await keys.generate("acme", "prod/billing/")
    await keys.unwrap("acme", "prod/billing/", made.wrapped)
    for secret in (ENCODED_KEY, DATA_KEY.decode(), ENCODED_BLOB, repr(DATA_KEY)):
        assert secret not in caplog.text


async def test_a_key_of_a_foreign_master_key_cannot_be_laundered(
    moto_options: AwsOptions, moto_clients: tuple[AwsClient, AwsClient]
) -> None:
    """SourceKeyId keeps it out: moto's ReEncrypt ignores it, so the test looks at the request on its way."""
    kms, _ = moto_clients
    theirs = (await kms.call("create_key"))["KeyMetadata"]["Arn"]
    blob = (await kms.call("encrypt", KeyId=theirs, Plaintext=DATA_KEY, EncryptionContext=CONTEXT))["CiphertextBlob"]
    async with open_aws(moto_options) as (keys, _):
        seen: list[dict[str, object]] = []
        keys._kms._client.meta.events.register(
            "provide-client-params.kms.ReEncrypt", lambda params, **_: seen.append(params)
        )
        await keys.rewrap("acme", "prod/billing/", WrappedBlob("1", blob))
    assert [params["SourceKeyId"] for params in seen] == [moto_options.master_keys["1"]] != [theirs]
