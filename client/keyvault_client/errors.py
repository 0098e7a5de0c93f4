"""What can go wrong, as exceptions: every one is a KeyVaultError, none holds a secret, no gRPC type is among them.

KeyVaultError
  InvalidRequest      it can never succeed as it is; often found before anything is sent
  NotFound            no such record, or deleted
  AlreadyExists       Create on a live record
  Conflict            the record is at another revision than the one named
  NotAuthorized       the key is not the record's
  Denied              the server's policy, or no valid identity
  Busy                a quota, a throttled backend, a full store; surely nothing was written
  MasterKeyUnusable   the operator has to act
  Unavailable         no answer; surely nothing was written
  OutcomeUnknown      a mutation may have been done or not
  RecordDamaged       what is stored does not open, or is no record
  RolledBack          the server shows an older revision than it did before
  ServerFailure       a fault of the server
"""


class KeyVaultError(Exception):
    """Any failure of this library.

    `reason` is the server's `google.rpc.ErrorInfo.reason`, empty if the error arose here; `request_id` finds the call
    in the server's log.
    """

    def __init__(self, message: str, *, reason: str = "", request_id: str = "") -> None:
        super().__init__(message)
        self.reason = reason
        self.request_id = request_id


class InvalidRequest(KeyVaultError):
    """The request can never succeed as it is: a bad name, too much data, a key whose scope does not cover the name."""


class NotFound(KeyVaultError):
    """No such record, or it is deleted."""


class WrongRevision(KeyVaultError):
    """The record is at another revision than the mutation assumed; nothing was written."""

    def __init__(self, message: str, *, current_revision: int, reason: str = "", request_id: str = "") -> None:
        super().__init__(message, reason=reason, request_id=request_id)
        self.current_revision = current_revision


class AlreadyExists(WrongRevision):
    """Create on a live record, whose revision is `current_revision`."""


class Conflict(WrongRevision):
    """Somebody wrote meanwhile: the stored revision is `current_revision`, not the one that the caller named."""


class NotAuthorized(KeyVaultError):
    """The wrapped key does not unwrap, or its data key is not the record's."""


class Denied(KeyVaultError):
    """The server's policy does not allow the call, or the call carries no valid identity."""


class Busy(KeyVaultError):
    """A quota is spent, a backend is throttled or a store is full. Nothing was written."""

    def __init__(self, message: str, *, retry_after: float = 0.0, reason: str = "", request_id: str = "") -> None:
        super().__init__(message, reason=reason, request_id=request_id)
        self.retry_after = retry_after
        """Seconds after which the server invites another try; 0 if it does not say."""


class MasterKeyUnusable(KeyVaultError):
    """A master key is unknown, disabled or pending deletion: only the operator can help."""


class Unavailable(KeyVaultError):
    """The server was not reached, or gave no answer in time; of a mutation, nothing was written."""


class OutcomeUnknown(KeyVaultError):
    """A mutation was sent and its fate is not known: it may be done, or not. Read the record to see."""


class RecordDamaged(KeyVaultError):
    """What is stored is no record, or does not open under this key: restore it, or update it with the right key."""


class RolledBack(KeyVaultError):
    """The server shows a revision below one that this client has seen: somebody restored or tampered with its table."""

    def __init__(self, key_id: str, *, revision: int, seen: int) -> None:
        super().__init__(f"{key_id} is at revision {revision}, but revision {seen} was seen: the store was rolled back")
        self.revision = revision
        self.seen = seen


class ServerFailure(KeyVaultError):
    """A fault of the server, or not a KeyVault server at all."""
