"""The KeyVault client: `async with KeyVault("host:port") as vault`. docs/client.md describes it."""

from keyvault_client.cache import Secrets
from keyvault_client.cache_file import SealedRecord, read_cache_file
from keyvault_client.caller_identity import CallerIdentity, PolicyRule
from keyvault_client.errors import (
    AlreadyExists,
    BadPageToken,
    Busy,
    Conflict,
    Denied,
    InvalidRequest,
    KeyNotFound,
    KeyVaultError,
    MasterKeyUnusable,
    NotAuthorized,
    NotCached,
    NotFound,
    NotRefreshed,
    OutcomeUnknown,
    RecordDamaged,
    RevisionNotFound,
    RolledBack,
    ServerFailure,
    Unavailable,
    WrongEventLoop,
    WrongRevision,
)
from keyvault_client.history import Revision
from keyvault_client.key_folder import StoredKey
from keyvault_client.key_ring import KeyRing
from keyvault_client.keys import DataKey
from keyvault_client.listing import ListedName
from keyvault_client.records import Record, Written
from keyvault_client.tls import TLS
from keyvault_client.vault import KeyVault

__all__ = [
    "TLS",
    "AlreadyExists",
    "BadPageToken",
    "Busy",
    "CallerIdentity",
    "Conflict",
    "DataKey",
    "Denied",
    "InvalidRequest",
    "KeyNotFound",
    "KeyRing",
    "KeyVault",
    "KeyVaultError",
    "ListedName",
    "MasterKeyUnusable",
    "NotAuthorized",
    "NotCached",
    "NotFound",
    "NotRefreshed",
    "OutcomeUnknown",
    "PolicyRule",
    "Record",
    "RecordDamaged",
    "Revision",
    "RevisionNotFound",
    "RolledBack",
    "SealedRecord",
    "Secrets",
    "ServerFailure",
    "StoredKey",
    "Unavailable",
    "Written",
    "WrongEventLoop",
    "WrongRevision",
    "read_cache_file",
]
