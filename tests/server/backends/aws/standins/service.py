"""What both stand-ins are: an AWS service on loopback that speaks the wire protocol and can be made to misbehave.

The rule of this file: an operation is decided at one point in time, between the two halves of the latency, so that
what the real service promises to do atomically is done so here. `knobs` may be turned while calls are in flight.

Source: AWS JSON protocols 1.0 and 1.1; Signature Version 4 ("Authorization" header).
"""

import asyncio
import json
import re
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, ClassVar
from uuid import uuid4

from tests.server.backends.aws.wire import Message, Reply, listening, read_message

REGION = "eu-central-1"
ACCOUNT = "123456789012"
Parameters = Mapping[str, Any]
Operation = Callable[[Parameters], dict[str, Any]]


class AwsError(Exception):
    """The refusal of an operation; `more` are further fields of its body."""

    def __init__(self, code: str, message: str = "", status: int = 400, **more: object) -> None:
        super().__init__(code)
        self.code = code
        self.status = status
        self.body = {"message": message} | more


class InvalidInput(AwsError):
    """The refusal of an operation's parameters."""

    def __init__(self, message: str) -> None:
        super().__init__("ValidationException", message)


THROTTLED = AwsError("ThrottlingException", "Rate exceeded")
EXPIRED = AwsError("ExpiredTokenException", "The security token included in the request is expired")
BROKEN = AwsError("InternalServerError", "Internal server error", 500)
UNAVAILABLE = AwsError("ServiceUnavailable", "", 503)


@dataclass
class Knobs:
    """How the service misbehaves."""

    latency: float = 0.0
    """Seconds that each call takes, half of them before and half after it is decided."""
    refusal: AwsError | None = None
    """Refusal of every call, without effect: such as THROTTLED, EXPIRED, BROKEN, UNAVAILABLE."""


class Service:
    """One service; its subclass has the operations. `calls` counts them by name, refused ones too."""

    name: ClassVar[str]
    """Name of the service in the signature's scope."""
    target: ClassVar[str]
    """Prefix of the operation's name in `x-amz-target`."""
    json_version: ClassVar[str]
    checksums: ClassVar[bool] = False
    """Whether replies carry `x-amz-crc32`."""

    def __init__(self, operations: Mapping[str, Operation]) -> None:
        self.knobs = Knobs()
        self.calls: Counter[str] = Counter()
        self.connections = 0
        """Connections opened so far."""
        self._operations = operations

    def running(self) -> AbstractAsyncContextManager[int]:
        """Serve while the body runs; yield the port."""
        return listening(self._serve)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        while True:
            request = await read_message(reader)
            writer.write(bytes(await self._reply_to(request)))
            await writer.drain()

    async def _reply_to(self, request: Message) -> Reply:
        knobs = Knobs(self.knobs.latency, self.knobs.refusal)
        await asyncio.sleep(knobs.latency / 2)
        try:
            status, body = 200, self._decide(request, knobs)
        except AwsError as error:
            status, body = error.status, {"__type": f"com.amazonaws.{self.name}#{error.code}", **error.body}
        await asyncio.sleep(knobs.latency / 2)
        return self._encoded(status, body)

    def _decide(self, request: Message, knobs: Knobs) -> dict[str, Any]:
        """Check the authentication, obey the knobs, then run the operation."""
        self._refuse_unsigned(request)
        target, _, operation = request.headers.get("x-amz-target", "").rpartition(".")
        if target != self.target or operation not in self._operations:
            raise AwsError("UnknownOperationException")
        if request.headers.get("content-type") != f"application/x-amz-json-{self.json_version}":
            raise AwsError("SerializationException", "not the content type of this service")
        self.calls[operation] += 1
        if knobs.refusal is not None:
            raise knobs.refusal
        return self._operations[operation](json.loads(request.body))

    def _refuse_unsigned(self, request: Message) -> None:
        """Check the scope, not the signature, which is the SDK's work and not ours."""
        scope = rf"AWS4-HMAC-SHA256 Credential=\w+/\d{{8}}/{REGION}/{self.name}/aws4_request, SignedHeaders=.+, "
        if not re.match(scope + r"Signature=[0-9a-f]{64}$", request.headers.get("authorization", "")):
            raise AwsError("MissingAuthenticationTokenException", "Request is missing Authentication Token")

    def _encoded(self, status: int, body: Mapping[str, Any]) -> Reply:
        encoded = json.dumps(body).encode()
        headers = {"content-type": f"application/x-amz-json-{self.json_version}", "x-amzn-RequestId": str(uuid4())}
        if self.checksums:
            headers["x-amz-crc32"] = str(zlib.crc32(encoded))
        return Reply(status, encoded, headers)


def text(parameters: Parameters, name: str) -> str:
    """Return a parameter that has to be a string. Raises InvalidInput."""
    value = parameters.get(name)
    if not isinstance(value, str) or not value:
        raise InvalidInput(f"{name} must be a string that is not empty")
    return value
