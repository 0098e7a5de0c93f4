"""The grammar of SPIFFE IDs: spiffe://TRUST-DOMAIN/PATH.

A trust domain is 1 to 255 characters of [a-z0-9._-]; a path is one segment of [A-Za-z0-9._-] or more, none of which is
"." or "..". The rule of this file: it is the only place that knows the grammar. Source: SPIFFE-ID, sections 2.1 to 2.3.
"""

import re

from keyvault_server.core.caller import MAX_IDENTITY

SCHEME = "spiffe://"

_TRUST_DOMAIN = r"spiffe://[a-z0-9._-]{1,255}"
_SEGMENT = r"/(?!\.{1,2}(?:/|\Z))[a-zA-Z0-9._-]+"
_ID = re.compile(rf"{_TRUST_DOMAIN}(?:{_SEGMENT})+", re.ASCII)
# The last segment is only begun: it may be empty, "." or "..", since more may follow.
_PREFIX = re.compile(rf"{_TRUST_DOMAIN}(?:{_SEGMENT}(?=/))*/[a-zA-Z0-9._-]*", re.ASCII)


def is_spiffe_id(text: str) -> bool:
    """Return whether the text is a SPIFFE ID of a workload."""
    return len(text) <= MAX_IDENTITY and _ID.fullmatch(text) is not None


def is_spiffe_prefix(text: str) -> bool:
    """Return whether a SPIFFE ID may begin with the text and continue after the "/" that ends the trust domain."""
    return len(text) <= MAX_IDENTITY and _PREFIX.fullmatch(text) is not None
