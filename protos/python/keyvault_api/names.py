"""Names, sizes and methods of the contract. The client checks them before it sends, the server before it acts.

Names are compared byte by byte and never normalised. They are ASCII, so characters and bytes are the same count.
"""

import re

MAX_KEY_ID = 255
"""Bytes in a key_id or a scope."""
MAX_WRAPPED_KEY = 8_192
"""Bytes in a wrapped key."""
DATA_KEY_SIZE = 32
"""Bytes in a data key (AES-256)."""
MAX_MESSAGE = 512 * 1024
"""Bytes in one request, and in the reply to every method but BatchRead."""
MAX_REPLY = 4 * 1024 * 1024
"""Bytes in one reply that a client accepts, as gRPC's libraries do unless they are set otherwise."""
MAX_BATCH_ITEMS = 100
"""Records that one BatchRead asks for."""
REMEMBERED_ENVELOPES = 16
"""Envelopes that a record remembers by their digests, newest first, and so recognises as replays."""
MAX_HISTORY = REMEMBERED_ENVELOPES - 1
"""Earlier revisions of a record that a server keeps at most."""
DEFAULT_PAGE = 100
"""Names on a page of a List that does not say how many."""
MAX_PAGE = 1_000
"""Names on a page at most."""
LIST = "List"
"""The method whose name is a prefix, and that only patterns with a final "*" grant."""
POLICY_METHODS = ("GenerateKey", "Create", "Read", "Update", "Delete", "RotateKey", "RewrapKey", "UnwrapKey", LIST)
"""Methods that a policy grants, in the order of keyvault.proto."""
WHO_AM_I = "WhoAmI"
"""The method that needs an identity and no grant."""
BATCH_READ = "BatchRead"
"""The method of which each item needs the grant of a Read."""
LIST_REVISIONS = "ListRevisions"
"""The method that needs the grant of a Read, and is charged as one."""
METHODS = (*POLICY_METHODS[:-1], BATCH_READ, LIST, LIST_REVISIONS, WHO_AM_I)
"""Methods of the service, in the order of keyvault.proto."""

_NAME = re.compile(r"[A-Za-z0-9._~:@/+=-]{1,255}", re.ASCII)
_TENANT = re.compile(r"[a-z0-9][a-z0-9-]{0,62}", re.ASCII)


def is_scope(text: str) -> bool:
    """Return True for a key_id, or for a prefix of key_ids that ends in "/"."""
    return _NAME.fullmatch(text) is not None


def is_key_id(text: str) -> bool:
    """Return True for 1 to 255 characters of [A-Za-z0-9._~:@/+=-] that do not end in "/"."""
    return is_scope(text) and not text.endswith("/")


def is_tenant(text: str) -> bool:
    """Return True for 1 to 63 characters of [a-z0-9-] that do not begin with "-"."""
    return _TENANT.fullmatch(text) is not None


def covers(scope: str, key_id: str) -> bool:
    """Return True if a key of this scope may be used for this key_id: the same name, or a prefix that ends in "/"."""
    return scope == key_id or (scope.endswith("/") and key_id.startswith(scope) and len(key_id) > len(scope))
