"""List: names by their prefix, page by page.

The rule of this file: a page token is a place in one listing and nothing else. It grants nothing, so a caller may make
one; what it says has to fit the request, and each page is judged by the policy as the first one is.
"""

import base64
import binascii
from itertools import pairwise
from typing import NamedTuple

from keyvault_api.names import DEFAULT_PAGE, MAX_PAGE, is_key_id, is_scope
from keyvault_server.core.caller import Caller
from keyvault_server.core.errors import BadPageToken, InvalidKeyId, InvalidRequest, RecordCorrupt
from keyvault_server.core.ports import ListedName, NamePage
from keyvault_server.core.turn import NO_WAIT, Turn
from keyvault_server.core.vault import Vault

_SEPARATOR = "#"
"""Stands between the parts of a page token; no name contains it."""
_INVALID_PREFIX = "a prefix is up to 255 characters of [A-Za-z0-9._~:@/+=-]; empty, it lists all names"


class Page(NamedTuple):
    """The answer to a List."""

    names: list[ListedName]
    next_page_token: str
    """Empty at the end."""


async def list_names(
    vault: Vault,
    caller: Caller,
    prefix: str,
    page_size: int = 0,
    page_token: str = "",
    *,
    deleted: bool = False,
    turn: Turn = NO_WAIT,
) -> Page:
    """Return the page that begins after the place of the token ("": the first page).

    The store is asked in `turn`, which only a List that may be answered waits for.

    Raises InvalidKeyId, InvalidRequest, BadPageToken.
    """
    caller.note(prefix)
    if prefix and not is_scope(prefix):
        raise InvalidKeyId(_INVALID_PREFIX, field="prefix")
    if page_size < 0:
        raise InvalidRequest(f"page_size must not be negative, got {page_size}", field="page_size")
    after = _place(page_token, prefix, deleted=deleted) if page_token else ""
    limit = min(page_size or DEFAULT_PAGE, MAX_PAGE)
    found = await vault.list_names(caller, prefix, after, limit, deleted=deleted, turn=turn)
    _check(found, prefix, after)
    return Page(found.names, "" if found.more is None else _token(found.more, prefix, deleted=deleted))


def _token(last: str, prefix: str, *, deleted: bool) -> str:
    """Return the token of the place after a name."""
    place = _SEPARATOR.join(("deleted" if deleted else "live", prefix, last))
    return base64.urlsafe_b64encode(place.encode()).decode()


def _place(token: str, prefix: str, *, deleted: bool) -> str:
    """Return the name after which the page begins. Raises BadPageToken unless the token is one of this listing."""
    try:
        last = base64.urlsafe_b64decode(token).decode("ascii").rpartition(_SEPARATOR)[2]
    except (ValueError, binascii.Error):
        raise BadPageToken(field="page_token") from None
    if not is_key_id(last) or not last.startswith(prefix) or token != _token(last, prefix, deleted=deleted):
        raise BadPageToken(field="page_token")
    return last


def _check(found: NamePage, prefix: str, after: str) -> None:
    """Raise RecordCorrupt for names that no accepted mutation can have left, such as the same one twice."""
    names = [name.key_id for name in found.names]
    if found.more is not None:
        names.append(found.more)
    in_order = all(one < other for one, other in pairwise([after, *(name.key_id for name in found.names)]))
    if not in_order or not all(is_key_id(name) and name.startswith(prefix) for name in names):
        raise RecordCorrupt
