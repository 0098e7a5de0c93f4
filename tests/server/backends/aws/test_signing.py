"""What our requests are signed with, against the SDK's own signature of the same request."""

from datetime import UTC, datetime

import botocore.auth
import pytest
from botocore.auth import AUTH_TYPE_MAPS, SigV4Auth
from botocore.awsrequest import AWSPreparedRequest, AWSRequest
from botocore.credentials import Credentials

from keyvault_server.backends.aws.clients import open_clients
from keyvault_server.backends.aws.signing import QuickSigV4
from tests.server.backends.aws.stub import Reply, stub
from tests.support.engines import options

HEADERS = {
    "X-Amz-Target": "DynamoDB_20120810.GetItem",
    "content-type": " application/x-amz-json-1.0 ",
    "user-agent": "u",
}


@pytest.fixture
def fixed_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the SDK sign at one moment."""
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda: datetime(2026, 11, 29, tzinfo=UTC))


def signed(signer: type[SigV4Auth], url: str, token: str | None, headers: dict[str, str]) -> AWSPreparedRequest:
    request = AWSRequest("POST", url, data=b'{"a": 1}', headers=HEADERS | headers)
    signer(Credentials("testing", "secret", token), "dynamodb", "eu-central-1").add_auth(request)
    return request.prepare()


@pytest.mark.usefixtures("fixed_time")
@pytest.mark.parametrize(
    "url", ["https://dynamodb.eu-central-1.amazonaws.com/", "http://127.0.0.1:8000", "https://h:443/"]
)
@pytest.mark.parametrize("token", [None, "a session's token"])
@pytest.mark.parametrize("more", [{}, {"Host": "elsewhere"}, {"Expect": "100-continue", "X-Two": "two  words"}])
def test_a_request_is_signed_as_the_sdk_does(url: str, token: str | None, more: dict[str, str]) -> None:
    ours, theirs = (signed(signer, url, token, more).headers for signer in (QuickSigV4, SigV4Auth))
    assert "SignedHeaders=" in str(theirs["Authorization"])
    assert dict(ours) == dict(theirs)


def test_the_key_is_of_the_secret_day_region_and_service(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each changes alone, and back."""
    first = ("secret", 28, "eu-central-1", "kms")
    others = [("Secret", *first[1:]), ("secret", 29, *first[2:]), (*first[:2], "eu-west-1", "kms"), (*first[:3], "x")]
    for secret, day, region, service in [pair for other in others for pair in (first, other, first, first)]:
        monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda day=day: datetime(2026, 11, day, tzinfo=UTC))
        pair = []
        for signer in (QuickSigV4, SigV4Auth):
            request = AWSRequest("POST", "https://h/", data=b"", headers={})
            signer(Credentials("testing", secret), service, region).add_auth(request)
            pair.append(request.headers["Authorization"])
        assert pair[0] == pair[1]


@pytest.mark.parametrize("data", [b"", b"x", bytearray(b"x"), "text", {"a": "b"}])
@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("context", [{}, {"payload_signing_enabled": False}])
@pytest.mark.usefixtures("fixed_time")
def test_the_body_is_hashed_as_the_sdk_does(data: object, scheme: str, context: dict[str, bool]) -> None:
    pair = []
    for signer in (QuickSigV4, SigV4Auth):
        request = AWSRequest("POST", f"{scheme}://h/", data=data, headers={})
        request.context.update(context)
        signer(Credentials("testing", "secret"), "kms", "eu-central-1").add_auth(request)
        pair.append(request.headers["Authorization"])
    assert pair[0] == pair[1]


@pytest.mark.usefixtures("aws_identity")
async def test_both_clients_sign_in_this_way() -> None:
    async with stub(Reply()) as served, open_clients(options(served.address, served.address)) as clients:
        for client in clients:
            events = client._client.meta.events
            _, chosen = await events.emit_until_response(
                "choose-signer.any.Any", signature_version="v4", signing_name="any", context={}
            )
            assert AUTH_TYPE_MAPS[chosen] is QuickSigV4
