"""One call to AWS: its time limit, what counts as an answer, and what its errors mean.

The rule of this file: it raises a VaultError, or an AwsFault for what only a bug of ours can cause (the caller sees
INTERNAL), and nothing else. Neither holds a text of AWS or a parameter, which may be a data key; the AwsFault, as
cause, names the operation and the code. Of the failed replies a throttle, and one that AWS gave without looking at the
request (NotDone), prove that nothing was done. `faults.py` has the codes, `credentials.py` what is waited for before a
request is signed, `retries.py` what is retried, `connections.py` what happens to a cancelled call.
"""

import asyncio
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from botocore.exceptions import ClientError

from keyvault_server.backends.aws.connections import ConnectionPool, NotSent
from keyvault_server.backends.aws.credentials import Credentials, NoCredentials
from keyvault_server.backends.aws.faults import CREDENTIALS_REJECTED, AwsFault, cause_of, code_of, fault_of, vault_error
from keyvault_server.backends.aws.reply_bodies import look_at_body
from keyvault_server.backends.aws.retries import Retries
from keyvault_server.core.errors import BackendUnavailable, NotAuthorized, OperatorError, VaultError

_log = logging.getLogger(__name__)


class NoUsableAnswer(OperatorError):
    """AWS did not do what a start or an `init` needs; the message says what and why."""


class AwsClient:
    """An open client of one AWS service, called by operation."""

    def __init__(
        self,
        client: Any,
        credentials: Credentials,
        call_timeout: float,
        connections: ConnectionPool,
        *,
        log: bool = True,
    ) -> None:
        client.meta.events.register("before-parse", look_at_body)
        self._client = client
        self._service: str = client.meta.service_model.service_name
        self._credentials = credentials
        self.seconds = call_timeout
        """Time limit of a call."""
        self.patience = connections.patience
        """Seconds that a call waits for a connection."""
        self._connections = connections
        self._retries = Retries()
        self._log = log

    async def call(
        self,
        operation: str,
        *needed: str,
        until: float | None = None,
        repeatable: bool = False,
        **parameters: Any,
    ) -> Mapping[str, Any]:
        """Call `operation` (such as `get_item`) and return its reply, which has all keys of `needed`.

        The time limit, which ends at `until` of the loop's clock if that is given, covers the wait for credentials
        and for a connection, which the SDK does not bound, and all attempts. A cancelled write may still be done. A
        `repeatable` one has the same effect however often it is done, and is retried as a read is.
        Raises a VaultError, caused by an AwsFault; or the AwsFault.
        """
        if until is None:
            until = asyncio.get_running_loop().time() + self.seconds
        try:
            return await self._retries.run(
                operation, partial(self._attempt, operation, needed, parameters, until), until, repeatable=repeatable
            )
        except TimeoutError:
            code = "Timeout" if self._credentials.usable else "credentials: Timeout"
            raise BackendUnavailable from self._log_failure(AwsFault(operation, code))

    async def _attempt(
        self, operation: str, needed: tuple[str, ...], parameters: Mapping[str, Any], until: float
    ) -> Mapping[str, Any]:
        """Wait for credentials, then for a connection and the reply. Raises TimeoutError at `until`.

        Each wait keeps the time limit itself: a timer over all of them costs as much as the call's other parts here.
        """
        try:
            if self._credentials.usable:
                await self._credentials.ready()  # does not wait
            else:
                async with asyncio.timeout_at(until):
                    await self._credentials.ready()
            reply = await self._connections.run(partial(getattr(self._client, operation), **parameters), until)
        except (VaultError, TimeoutError):
            raise
        except NoCredentials as error:
            raise NotSent from self._log_failure(AwsFault(operation, f"credentials: {error.cause}"))
        except ClientError as error:
            fault, kind = self._classify(operation, error, parameters)
            if kind is None:
                raise fault from None
            raise kind from (fault if kind is NotAuthorized else self._log_failure(fault))
        except Exception as error:  # no connection, no reply, or one on which the SDK fails with whatever it likes
            raise BackendUnavailable from self._log_failure(AwsFault(operation, cause_of(error)))
        return self._check_reply(operation, needed, reply)

    def _classify(
        self, operation: str, error: ClientError, parameters: Mapping[str, Any]
    ) -> tuple[AwsFault, type[VaultError] | None]:
        """Return the fault of an error reply, and what it is to the vault; None if it is our own mistake."""
        action = f"{self._service}:{self._client.meta.method_to_api_mapping[operation]}"
        fault = fault_of(operation, action, error, parameters)
        code = code_of(error)
        if code in CREDENTIALS_REJECTED:
            self._credentials.reject()
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return fault, vault_error(self._service, code, status)

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
            details = {"operation": fault.operation, "code": fault.code} | (
                {"needs": fault.needs} if fault.needs else {}
            )
            _log.warning("AWS call failed", extra=details)
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
        if isinstance(fault, AwsFault) and fault.needs:
            raise NoUsableAnswer(f"{subject}: the role may not {fault.operation}: it needs {fault.needs}") from None
        raise NoUsableAnswer(
            f"{subject}: AWS gave no usable answer ({fault or type(error).__name__}): check the endpoint, the network"
            " and the permissions of the role"
        ) from None
