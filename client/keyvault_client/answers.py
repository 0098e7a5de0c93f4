"""Data keys in a server's answers, checked before they are used or saved.

The rule of this file: a server may lie, and what it says about a key is compared with what was asked. What a wrapped
key holds cannot be checked: it is opaque to everyone but the server. So a rewrapped key is checked for its size only.
"""

import hmac
import re

from keyvault_api.names import DATA_KEY_SIZE, MAX_WRAPPED_KEY, is_tenant
from keyvault_api.v1 import keyvault_pb2 as pb
from keyvault_client.errors import ServerFailure, quote
from keyvault_client.keys import DataKey

_GENERATED_NAME = re.compile(r"[0-9a-f]{32}", re.ASCII)  # keyvault.proto, GenerateKeyRequest.scope


def generated_key(answer: pb.GenerateKeyResponse, scope: str) -> DataKey:
    """Return the new key for the scope that was asked for, "" for a name of the server's. Raises ServerFailure."""
    if not (answer.scope == scope if scope else _GENERATED_NAME.fullmatch(answer.scope)):
        wanted = quote(scope) if scope else "a key_id of 32 hex digits"
        raise _invalid("GenerateKey", f"scope {quote(answer.scope)} instead of {wanted}")
    if not is_tenant(answer.tenant):
        raise _invalid("GenerateKey", f"invalid tenant {quote(answer.tenant)}")
    _check_data_key("GenerateKey", answer.plaintext_key)
    _check_wrapped_key("GenerateKey", answer.wrapped_key)
    return DataKey(answer.tenant, answer.scope, answer.wrapped_key, answer.plaintext_key)


def rewrapped_key(answer: pb.RewrapKeyResponse, key: DataKey) -> DataKey:
    """Return the key that was sent in its new wrapped form. Raises ServerFailure."""
    _check_wrapped_key("RewrapKey", answer.wrapped_key)
    return DataKey(key.tenant, key.scope, answer.wrapped_key, key.plaintext_key)


def unwrapped_key(answer: pb.UnwrapKeyResponse, key: DataKey) -> DataKey:
    """Return the key that was sent with its plaintext. Raises ServerFailure."""
    if (answer.tenant, answer.scope) != (key.tenant, key.scope):
        given = f"tenant {quote(answer.tenant)} and scope {quote(answer.scope)}"
        raise _invalid("UnwrapKey", f"{given} instead of {quote(key.tenant)} and {quote(key.scope)}")
    _check_data_key("UnwrapKey", answer.plaintext_key)
    if key.plaintext_key is not None and not hmac.compare_digest(key.plaintext_key, answer.plaintext_key):
        raise _invalid("UnwrapKey", "another plaintext_key than the key has")
    return DataKey(key.tenant, key.scope, key.wrapped_key, answer.plaintext_key)


def _check_data_key(method: str, data_key: bytes) -> None:
    if len(data_key) != DATA_KEY_SIZE:
        raise _invalid(method, f"a plaintext_key of {len(data_key)} bytes instead of {DATA_KEY_SIZE}")


def _check_wrapped_key(method: str, wrapped: bytes) -> None:
    if not 0 < len(wrapped) <= MAX_WRAPPED_KEY:
        raise _invalid(method, f"a wrapped_key of {len(wrapped)} bytes instead of 1 to {MAX_WRAPPED_KEY}")


def _invalid(method: str, what: str) -> ServerFailure:
    return ServerFailure(f"the server answered {method} with {what}: do not use this server, and report it")
