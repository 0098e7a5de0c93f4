"""The KeyVault client: `async with KeyVault("host:port") as vault`. docs/client.md describes it.

The rule of this file: a name is imported when it is first used. So the command, and a program that imports the library
early, wait for gRPC only when they need it.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
        WrongProcess,
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
    "WrongProcess",
    "WrongRevision",
    "read_cache_file",
]

_MODULES = {
    "CallerIdentity": "caller_identity",
    "DataKey": "keys",
    "KeyRing": "key_ring",
    "KeyVault": "vault",
    "ListedName": "listing",
    "PolicyRule": "caller_identity",
    "Record": "records",
    "Revision": "history",
    "SealedRecord": "cache_file",
    "Secrets": "cache",
    "StoredKey": "key_folder",
    "TLS": "tls",
    "Written": "records",
    "read_cache_file": "cache_file",
}
"""Modules of the names that are not exceptions; those are in errors.py."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"keyvault_client.{_MODULES.get(name, 'errors')}")
    value = globals()[name] = getattr(module, name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
