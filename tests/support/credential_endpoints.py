"""Stand-ins for what gives out AWS credentials: STS, the endpoint of a container, and the metadata of an instance.

The rule of this file: each answers as slowly and as badly as a test says, counts its requests, and gives every answer
credentials of its own.

Source: AWS STS API Reference "AssumeRoleWithWebIdentity"; AWS SDKs and Tools Reference Guide "Container credential
provider", "IMDS credential provider".
"""

import asyncio
import datetime
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.server.backends.aws.wire import Message, Reply, listening, read_message

ROLE = "arn:aws:iam::123456789012:role/keyvault"
SECRET = "SECRET"
_ROLE_NAME = "/latest/meta-data/iam/security-credentials/"
_CREDENTIALS = """<{operation}Response xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><{operation}Result>
<Credentials><AccessKeyId>{key}</AccessKeyId><SecretAccessKey>{secret}</SecretAccessKey>
<SessionToken>{secret}</SessionToken><Expiration>{until}</Expiration></Credentials>
<AssumedRoleUser><Arn>arn:aws:sts::123456789012:assumed-role/keyvault/s</Arn><AssumedRoleId>A:s</AssumedRoleId>
</AssumedRoleUser></{operation}Result><ResponseMetadata><RequestId>1</RequestId></ResponseMetadata>
</{operation}Response>"""
_ERROR = """<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type>Sender</Type>
<Code>{code}</Code><Message>SECRET</Message></Error><RequestId>1</RequestId></ErrorResponse>"""


@dataclass
class CredentialEndpoint:
    """A server that gives out credentials; change it while it runs."""

    address: str = ""
    delay: float = 0.0
    """Seconds before each answer."""
    lifetime: float = 3600.0
    """Seconds until what it gives out expires."""
    errors: list[str] = field(default_factory=list)
    """Codes of the next answers; the last one stays, and none is left by `heal`."""
    requests: int = 0
    in_flight: int = 0
    most_in_flight: int = 0

    def heal(self) -> None:
        """Answer at once and well."""
        self.delay, self.errors[:] = 0.0, []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            request = await read_message(reader)
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
            try:
                await asyncio.sleep(self.delay)
                writer.write(bytes(self._answer(request)))
                await writer.drain()
            finally:
                self.in_flight -= 1

    def _answer(self, request: Message) -> Reply:
        method, path, _ = request.start.split()
        if method == "PUT":
            return Reply(200, b"token")
        if path == _ROLE_NAME:
            return Reply(200, b"keyvault")
        self.requests += 1
        code = (self.errors.pop(0) if len(self.errors) > 1 else self.errors[0]) if self.errors else ""
        if method == "POST":
            return self._sts(request, code)
        return Reply(500, SECRET.encode()) if code else Reply(200, json.dumps(self._json()).encode())

    def _sts(self, request: Message, code: str) -> Reply:
        if code:
            return Reply(400, _ERROR.format(code=code).encode(), {"content-type": "text/xml"})
        operation = request.body.decode().partition("Action=")[2].partition("&")[0]
        body = _CREDENTIALS.format(operation=operation, key=self._key(), secret=SECRET, until=self._until())
        return Reply(200, body.encode(), {"content-type": "text/xml"})

    def _json(self) -> dict[str, str]:
        keys = {"AccessKeyId": self._key(), "SecretAccessKey": SECRET, "Token": SECRET}
        return {"Code": "Success", **keys, "Expiration": self._until()}

    def _key(self) -> str:
        return f"KEY{self.requests}"

    def _until(self) -> str:
        until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=self.lifetime)
        return until.strftime("%Y-%m-%dT%H:%M:%SZ")


@asynccontextmanager
async def credential_endpoint() -> AsyncIterator[CredentialEndpoint]:
    """Serve on loopback while the body runs."""
    endpoint = CredentialEndpoint()
    async with listening(endpoint.serve) as port:
        endpoint.address = f"http://127.0.0.1:{port}"
        yield endpoint


@contextmanager
def identity_from(**variables: str) -> Iterator[None]:
    """Take away the keys of `aws_identity` and set these variables while the body runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("AWS_ACCESS_KEY_ID")
        patch.delenv("AWS_SECRET_ACCESS_KEY")
        for name, value in variables.items():
            patch.setenv(name, value)
        yield


@contextmanager
def web_identity(endpoint: CredentialEndpoint, folder: Path) -> Iterator[None]:
    """Get credentials from this STS for a token in a file, as a pod on EKS does."""
    token = folder / "token"
    token.write_text("web identity token")
    with identity_from(
        AWS_WEB_IDENTITY_TOKEN_FILE=str(token), AWS_ROLE_ARN=ROLE, AWS_ENDPOINT_URL_STS=endpoint.address
    ):
        yield


@contextmanager
def container(endpoint: CredentialEndpoint) -> Iterator[None]:
    """Get credentials as a task on ECS, or a pod with EKS Pod Identity, does."""
    with identity_from(AWS_CONTAINER_CREDENTIALS_FULL_URI=f"{endpoint.address}/credentials"):
        yield


@contextmanager
def instance(endpoint: CredentialEndpoint) -> Iterator[None]:
    """Get credentials as an EC2 instance does."""
    with identity_from(AWS_EC2_METADATA_DISABLED="false", AWS_EC2_METADATA_SERVICE_ENDPOINT=endpoint.address):
        yield
