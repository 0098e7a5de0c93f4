"""The KeyVault client: `async with KeyVault("host:port") as vault`. docs/client.md describes it."""

from keyvault_client.caller_identity import CallerIdentity, PolicyRule
from keyvault_client.errors import (
    AlreadyExists,
    Busy,
    Conflict,
    Denied,
    InvalidRequest,
    KeyVaultError,
    MasterKeyUnusable,
    NotAuthorized,
    NotFound,
    OutcomeUnknown,
    RecordDamaged,
    RolledBack,
    ServerFailure,
    Unavailable,
    WrongEventLoop,
    WrongRevision,
)
from keyvault_client.keys import DataKey
from keyvault_client.records import Record, Written
from keyvault_client.tls import TLS
from keyvault_client.vault import KeyVault

__all__ = [
    "TLS",
    "AlreadyExists",
    "Busy",
    "CallerIdentity",
    "Conflict",
    "DataKey",
    "Denied",
    "InvalidRequest",
    "KeyVault",
    "KeyVaultError",
    "MasterKeyUnusable",
    "NotAuthorized",
    "NotFound",
    "OutcomeUnknown",
    "PolicyRule",
    "Record",
    "RecordDamaged",
    "RolledBack",
    "ServerFailure",
    "Unavailable",
    "Written",
    "WrongEventLoop",
    "WrongRevision",
]
