"""The credentials that calls are signed with: fetched apart from the calls, one fetch at a time, and used while valid.

The rules of this file. A fetch has time limits and retries of its own, not those of a call, and no caller's leaving
cancels it. Credentials that are still valid stay in use, whatever becomes of a fetch of newer ones. Each fetch walks
the SDK's whole chain again, so that a rewritten file, another profile or a new token is found without a restart.
Signing never waits and never fetches: a call waits in `ready`, before it takes a connection.

Source: AWS SDKs and Tools Reference Guide "Credential provider chain"; IAM User Guide "Retrieve security credentials
from instance metadata" (new ones are there five minutes before the old expire, at the latest).
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

from botocore.credentials import ReadOnlyCredentials

from keyvault_server.backends.aws.faults import cause_of
from keyvault_server.core.errors import OperatorError

FETCH_SECONDS = 30.0
"""Time limit of one fetch, with the SDK's retries."""
REFRESH_BEFORE = 600.0
"""Seconds before their expiry from which newer credentials are fetched in the background."""
LOOK_SECONDS = 1.0
"""Shortest time between two looks at expiry and files, and between two fetches while there are no valid credentials."""
RETRY_SECONDS = 10.0
"""Seconds between two fetches while the credentials in use are valid: those that failed or brought nothing newer."""

_log = logging.getLogger(__name__)


class NoCredentials(OperatorError):
    """There are no valid AWS credentials; `cause` says why in a few words."""

    def __init__(self, cause: str) -> None:
        super().__init__(f"AWS credentials: {cause}: check AWS_PROFILE, its files, or the server's role")
        self.cause = cause


class Fetched(Protocol):
    """What one fetch brought."""

    @property
    def frozen(self) -> ReadOnlyCredentials:
        """Keys and token; secret."""

    def expires_within(self, seconds: float) -> bool:
        """Return whether they expire so soon; False for those that do not expire."""

    def is_outdated(self) -> bool:
        """Return whether the files that they may come from have changed since, but not since the last look."""


class Credentials:
    """The credentials of both clients, in the form that the SDK signs with. Belongs to one event loop."""

    method = "keyvault"
    """See botocore.credentials.Credentials."""

    def __init__(
        self,
        fetch: Callable[[], Awaitable[Fetched]],
        *,
        limit: float = FETCH_SECONDS,
        log: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fetch = fetch
        self._limit = limit
        self._clock = clock
        self._log = log
        self._current: Fetched | None = None
        self._rejected = False
        self._refresh: asyncio.Task[None] | None = None
        self._failure = ""
        self._next_look = 0.0
        self._fetched_at = float("-inf")

    @property
    def valid(self) -> bool:
        """Whether there are credentials that have not expired."""
        return self._current is not None and not self._current.expires_within(0)

    @property
    def usable(self) -> bool:
        """Whether a call can be signed without a wait."""
        return self.valid and not self._rejected

    async def ready(self) -> None:
        """Return when a call can be signed; wait for a fetch only if it cannot. Raises NoCredentials."""
        if self._is_due() and self._refresh is None:
            self._refresh = asyncio.create_task(self._replace())
        if self._refresh is not None and not self.usable:
            await asyncio.wait({self._refresh})  # unlike `await task`, does not pass the caller's cancellation on
        if not self.valid:
            raise NoCredentials(self._failure)

    def reject(self) -> None:
        """Fetch new ones before the next call: AWS rejected the current ones. Ignored right after a fetch."""
        now = self._clock()
        if now - self._fetched_at >= RETRY_SECONDS:
            self._rejected = True
            self._next_look = now

    async def get_frozen_credentials(self) -> ReadOnlyCredentials | None:
        """Return what is there now: the SDK calls this to sign, after `ready`."""
        return self._current.frozen if self._current else None

    async def get_account_id(self) -> str | None:
        """Return the account if the credentials name it: the SDK may make it part of DynamoDB's host name."""
        return self._current.frozen.account_id if self._current else None

    def get_deferred_property(self, _name: str) -> Callable[[], Awaitable[str | None]]:
        """Return `get_account_id`: the SDK asks for no other property."""
        return self.get_account_id

    async def aclose(self) -> None:
        """Cancel a fetch that runs."""
        if self._refresh is not None:
            self._refresh.cancel()
            await asyncio.wait({self._refresh})

    def _is_due(self) -> bool:
        now = self._clock()
        if self._current is None or not self.valid:
            return now - self._fetched_at >= LOOK_SECONDS
        if now < self._next_look:
            return False
        self._next_look = now + LOOK_SECONDS
        return self._rejected or self._current.expires_within(REFRESH_BEFORE) or self._current.is_outdated()

    async def _replace(self) -> None:
        """Fetch, keep what was fetched or why it failed, and set when the next look is due."""
        failed = ""
        try:
            async with asyncio.timeout(self._limit):
                self._current = await self._fetch()
        except Exception as error:  # the providers raise what they like: KeyError, JSONDecodeError, RuntimeError, ...
            failed = cause_of(error)
        finally:
            self._refresh = None
        self._fetched_at = self._clock()
        self._rejected = False
        self._log_outcome(failed)
        self._failure = failed or ("" if self.valid else "they had expired when they were fetched")
        unsettled = bool(failed) or (self._current is not None and self._current.expires_within(REFRESH_BEFORE))
        self._next_look = self._fetched_at + (RETRY_SECONDS if unsettled else LOOK_SECONDS)

    def _log_outcome(self, failed: str) -> None:
        if not self._log or self._current is None:  # at start the refusal says it
            return
        if failed and self.valid:
            _log.warning(
                "AWS credentials cannot be refreshed; the current ones are still valid", extra={"cause": failed}
            )
        elif failed:
            _log.error("AWS credentials cannot be fetched", extra={"cause": failed})
        elif self._failure:
            _log.info("AWS credentials are valid again")
