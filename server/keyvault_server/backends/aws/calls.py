"""One call to AWS: its time limit, what counts as an answer, and what its errors mean.

The rule of this file: it raises a VaultError, or an AwsFault for what only our identity, settings or bugs can cause
(the caller sees INTERNAL). Neither holds a text of AWS or a parameter, which may be a data key; the AwsFault, as cause,
names the operation and the code. Of the failed replies only a throttle proves that nothing was done. `retries.py` says
what is retried, `connections.py` what happens to a cancelled call.

Codes: AWS KMS API Reference "Decrypt", "GenerateDataKey", "ReEncrypt"; DynamoDB Developer Guide "Error handling".
"""

import asyncio
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError
from botocore.parsers import ResponseParserError

from keyvault_server.backends.aws.connections import ConnectionPool
from keyvault_server.backends.aws.retries import Retries
from keyvault_server.core.errors import (
    BackendThrottled,
    BackendUnavailable,
    MasterKeyUnusable,
    NotAuthorized,
    OperatorError,
    VaultError,
)

_THROTTLED = frozenset(
    {
        "LimitExceededException",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "ThrottledException",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
    }
)
_RETRYABLE = frozenset({"ExpiredToken", "ExpiredTokenException", "ReplicatedWriteConflictException"})
"""The next call brings a new token; another region's write came first and ours was not done."""
_NO_CREDENTIALS = frozenset({"NoCredentialsError", "PartialCredentialsError"})
_KMS: Mapping[str, type[VaultError]] = {
    "DisabledException": MasterKeyUnusable,
    "InvalidKeyUsageException": MasterKeyUnusable,
    "KMSInvalidStateException": MasterKeyUnusable,
    "NotFoundException": MasterKeyUnusable,
    "IncorrectKeyException": NotAuthorized,
    "InvalidCiphertextException": NotAuthorized,
}

_log = logging.getLogger(__name__)


class AwsFault(Exception):
    """One failed call: the operation, and AWS's error code or the SDK's class name."""

    def __init__(self, operation: str, code: str, reply: Mapping[str, Any] | None = None) -> None:
        super().__init__(operation, code)
        self.code = code
        self.reply = reply or {}
        """The error reply. No text of this exception shows it: it may hold a stored item."""

    def __str__(self) -> str:
        return f"{self.args[0]}: {self.code}"


class NoUsableAnswer(OperatorError):
    """AWS did not do what a start or an `init` needs; the message says what and why."""


class AwsClient:
    """An open client of one AWS service, called by operation."""

    def __init__(self, client: Any, call_timeout: float, connections: ConnectionPool, *, log: bool = True) -> None:
        client.meta.events.register("before-parse", _refuse_invalid_body)
        self._client = client
        self._seconds = call_timeout
        self._connections = connections
        self._retries = Retries()
        self._log = log

    @property
    def region(self) -> str:
        """The region whose endpoint the client calls."""
        return str(self._client.meta.region_name)

    async def call(self, operation: str, *needed: str, **parameters: Any) -> Mapping[str, Any]:
        """Call `operation` (such as `get_item`) and return its reply, which has all keys of `needed`.

        The time limit covers the wait for a connection, which the SDK does not bound, and all attempts. A cancelled
        write may still be done. Raises a VaultError, caused by an AwsFault; or the AwsFault itself.
        """
        attempt = partial(self._attempt, operation, needed, parameters)
        until = asyncio.get_running_loop().time() + self._seconds
        try:
            async with asyncio.timeout_at(until):
                return await self._retries.run(operation, attempt, until)
        except TimeoutError:
            raise BackendUnavailable from self._log_failure(AwsFault(operation, "Timeout"))

    async def _attempt(
        self, operation: str, needed: tuple[str, ...], parameters: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        try:
            reply = await self._connections.run(partial(getattr(self._client, operation), **parameters))
        except ParamValidationError as error:  # its text may show a parameter
            raise AwsFault(operation, type(error).__name__) from None
        except (ClientError, BotoCoreError, ResponseParserError) as error:
            fault, failure = self._classify(operation, error)
        else:
            return self._check_reply(operation, needed, reply)
        if failure is None:
            raise fault
        raise failure from (fault if failure is NotAuthorized else self._log_failure(fault))

    def _classify(self, operation: str, error: Exception) -> tuple[AwsFault, type[VaultError] | None]:
        """Return the fault, and what it is to the vault; None if it is our own mistake."""
        if not isinstance(error, ClientError):  # no connection, no credentials, no reply or an unreadable one
            return AwsFault(operation, type(error).__name__), BackendUnavailable
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return AwsFault(operation, code, error.response), self._vault_error(code, status)

    def _vault_error(self, code: str, status: int) -> type[VaultError] | None:
        if code in _THROTTLED:
            return BackendThrottled
        if status >= 500 or code in _RETRYABLE or not code or code.isdecimal():  # no code: something else answered
            return BackendUnavailable
        return _KMS.get(code) if self._client.meta.service_model.service_name == "kms" else None

    def _check_reply(self, operation: str, needed: tuple[str, ...], reply: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the reply. Raises BackendUnavailable if it is not from AWS, or lacks a needed key.

        The SDK takes a proxy's page with status 200 for an empty reply, which would read as "no such record".
        """
        if "RequestId" not in reply.get("ResponseMetadata", {}) or any(key not in reply for key in needed):
            raise BackendUnavailable from self._log_failure(AwsFault(operation, "NotAnAwsReply"))
        return reply

    def _log_failure(self, fault: AwsFault) -> AwsFault:
        """Log the fault and return it: the caller learns only the kind of failure, the operator needs the code."""
        if self._log:
            _log.warning("AWS call failed", extra={"operation": fault.args[0], "code": fault.code})
        return fault


@contextmanager
def explain_failures(subject: str, absent: str | None = None) -> Iterator[None]:
    """Turn every failure in the body into NoUsableAnswer about `subject`; say `absent` if AWS does not find it."""
    try:
        yield
    except (AwsFault, VaultError, TimeoutError) as error:
        fault = error if isinstance(error, AwsFault) else error.__cause__
        if absent and isinstance(fault, AwsFault) and fault.code == "ResourceNotFoundException":
            raise NoUsableAnswer(absent) from None
        if isinstance(fault, AwsFault) and fault.code in _NO_CREDENTIALS:
            raise NoUsableAnswer(
                f"{subject}: the AWS SDK finds no credentials: set AWS_PROFILE, or give the server a role"
            ) from None
        raise NoUsableAnswer(
            f"{subject}: AWS gave no usable answer ({fault or type(error).__name__}): check the endpoint, the network"
            " and the permissions of the role"
        ) from None


def _refuse_invalid_body(response_dict: dict[str, Any], operation_model: Any, **_event: object) -> None:
    """Raise ResponseParserError for a success whose body is not a JSON object; make an error's such body empty.

    Both services answer a JSON object, or nothing to an operation without output. The SDK takes a body that is not
    JSON for an empty object, and fails on a list.
    """
    body: bytes = response_dict["body"].strip()
    if body.startswith(b"{") and body.endswith(b"}"):
        return
    if response_dict["status_code"] < 300 and operation_model.output_shape:
        raise ResponseParserError
    response_dict["body"] = b"{}"  # the error's code is then its HTTP status
