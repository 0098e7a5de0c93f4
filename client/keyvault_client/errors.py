"""Exceptions of the client: each is a KeyVaultError, none holds a secret, and none is a gRPC type.

KeyVaultError
  InvalidRequest      the request can never succeed as it is; often found before it is sent
    BadPageToken      a listing cannot go on from where it was
    KeyNotFound       no key of the key ring covers the name
  NotFound            no such record, or it was deleted
    RevisionNotFound  the record exists, but the server does not keep this revision of it
  AlreadyExists       Create on a live record
  Conflict            the record is at another revision than the caller named, or was purged
  NotAuthorized       the key is not the record's
  Denied              the server's policy forbids the call, or the caller has no valid identity
  Busy                a quota, a throttled backend or a full store; nothing was written
  MasterKeyUnusable   the server's master key is unusable; its operator has to act
  Unavailable         no answer; nothing was written
  OutcomeUnknown      a mutation was sent and may have been done
  RecordDamaged       the stored record does not open, or is not a record
  RolledBack          the server shows an older revision than this client has seen
  ServerFailure       a fault of the server
  WrongEventLoop      the client was used in another event loop or process before
    WrongProcess      this process was forked while its parent had a connection
  NotCached           a cache has no value for this name; also a KeyError
  NotRefreshed        a cache could not read some of its names
"""

from collections.abc import Mapping
from types import MappingProxyType


class KeyVaultError(Exception):
    """Any failure of this library.

    `reason` is the server's `google.rpc.ErrorInfo.reason`, empty if this library found the error. `request_id` finds
    the call in the server's log.
    """

    def __init__(self, message: str, *, reason: str = "", request_id: str = "") -> None:
        super().__init__(message)
        self.reason = reason
        self.request_id = request_id


class InvalidRequest(KeyVaultError):
    """The request can never succeed as it is: a bad name, too much data, a key whose scope does not cover the name."""


class BadPageToken(InvalidRequest):
    """The server does not continue a listing from the page before: list again from the beginning."""


class KeyNotFound(InvalidRequest):
    """The key ring has no key whose scope covers the name."""


class NotFound(KeyVaultError):
    """There is no such record, or it was deleted."""


class RevisionNotFound(NotFound):
    """The record exists, but the server does not keep this revision of it, or it is a later one than there is.

    `current_revision` is what the server says, 0 if it does not say.
    """

    def __init__(self, message: str, *, current_revision: int, reason: str = "", request_id: str = "") -> None:
        super().__init__(message, reason=reason, request_id=request_id)
        self.current_revision = current_revision


class WrongRevision(KeyVaultError):
    """The record is at another revision than the mutation assumed; nothing was written.

    `current_revision` is what the server says, 0 if it does not say. Anyone between you and the records can make it up,
    so the client never seals for it: read and open the record before you name a revision.
    """

    def __init__(
        self,
        message: str,
        *,
        current_revision: int,
        remembered_since: int | None = None,
        vacant: bool = False,
        reason: str = "",
        request_id: str = "",
    ) -> None:
        super().__init__(message, reason=reason, request_id=request_id)
        self.current_revision = current_revision
        self.remembered_since = remembered_since
        """The oldest revision whose envelope the server recognizes; None if it does not say."""
        self.vacant = vacant
        """True if the server says that the name was purged, with `current_revision` as its last revision."""


class AlreadyExists(WrongRevision):
    """Create met a live record, which is at `current_revision`; nothing was written."""


class Conflict(WrongRevision):
    """The record was changed: it is at `current_revision`, not at the revision that the caller named."""


class NotAuthorized(KeyVaultError):
    """The wrapped key does not unwrap, or its data key does not own the record."""


class Denied(KeyVaultError):
    """The server's policy does not allow the call, or the call carries no valid identity."""


class Busy(KeyVaultError):
    """A quota is spent, a backend is throttled or a store is full. Nothing was written."""

    def __init__(self, message: str, *, retry_after: float = 0.0, reason: str = "", request_id: str = "") -> None:
        super().__init__(message, reason=reason, request_id=request_id)
        self.retry_after = retry_after
        """Seconds to wait before a retry, as the server says; 0 if it does not say."""


class MasterKeyUnusable(KeyVaultError):
    """A master key is unknown, disabled or pending deletion; only the server's operator can fix that."""


class Unavailable(KeyVaultError):
    """The server was not reached, or did not answer in time. Nothing was written."""


class OutcomeUnknown(KeyVaultError):
    """A mutation was sent, and it is unknown whether it was done. Read the record to see."""


class RecordDamaged(KeyVaultError):
    """The stored record is invalid or does not open under this key. Use the right key, or restore the record."""


class RolledBack(KeyVaultError):
    """The server shows a lower revision than this client has seen: its table was restored or tampered with."""

    def __init__(self, key_id: str, *, revision: int, seen: int) -> None:
        super().__init__(
            f"{key_id} is at revision {revision}, but this client has seen revision {seen}: the store was rolled back"
        )
        self.revision = revision
        self.seen = seen


class ServerFailure(KeyVaultError):
    """A fault of the server, or the address is not a KeyVault server's."""


class WrongEventLoop(KeyVaultError):
    """A client belongs to the event loop and process of its first call. Make another client, or share one loop."""


class WrongProcess(WrongEventLoop):
    """This process was forked while its parent had a connection. Close clients before, or make the first call after."""


class NotCached(KeyVaultError, KeyError):
    """A cache has no value for this name: it is not one of its names, or `failure` says why. Also a KeyError."""

    def __str__(self) -> str:
        return Exception.__str__(self)  # a KeyError shows its message in quotes


class NotRefreshed(KeyVaultError):
    """A cache could not read some of its names."""

    def __init__(self, message: str, *, failures: Mapping[str, KeyVaultError]) -> None:
        super().__init__(message)
        self.failures = MappingProxyType(dict(failures))
        """Why, for each name that failed."""


def quote(name: str) -> str:
    """Return a name as an error message shows it: quoted, printable, and at most 60 characters of it."""
    return ascii(name if len(name) <= 60 else f"{name[:60]}...")
