"""Names of records by their prefix, page by page.

The rule of this file: a server may lie. Names begin with the prefix and ascend by their bytes, so none comes twice, and
a listing ends: a page repeats no token, and pages without a name are not asked for endlessly.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from keyvault_api.names import MAX_PAGE, is_key_id, is_scope
from keyvault_api.v1 import keyvault_pb2 as pb
from keyvault_client.errors import InvalidRequest, ServerFailure, quote
from keyvault_client.records import json_time, time_of
from keyvault_client.transport import Transport

MAX_EMPTY_PAGES = 100
"""Pages in a row without a name, after which the listing is given up. A server may send some at its end."""


@dataclass(frozen=True, slots=True)
class ListedName:
    """The name of a record."""

    key_id: str
    create_time: datetime
    """When the record was created, by the server's clock; informational."""

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON has them."""
        return {"key_id": self.key_id, "create_time": json_time(self.create_time)}


def check_prefix(prefix: str) -> None:
    """Raise InvalidRequest for what no name begins with."""
    if prefix and not is_scope(prefix):
        raise InvalidRequest(f"invalid prefix {quote(prefix)}: must be 0 to 255 characters of [A-Za-z0-9._~:@/+=-]")


async def names_on(pages: AsyncIterator[Sequence[ListedName]]) -> AsyncIterator[ListedName]:
    """Yield the names on pages."""
    async for page in pages:
        for name in page:
            yield name


async def list_pages(
    transport: Transport, prefix: str, deadline: Callable[[], float], *, deleted: bool
) -> AsyncIterator[Sequence[ListedName]]:
    """Yield pages of names, in the order of their bytes; `deadline` returns that of the next one.

    Raises KeyVaultError.
    """
    last, token, empty = "", "", 0
    while True:
        request = pb.ListRequest(prefix=prefix, page_size=MAX_PAGE, page_token=token, deleted=deleted)
        answer = await transport.call("List", request, deadline(), pb.ListResponse)
        names = [one.key_id for one in answer.names]
        _check_names(prefix, last, names)
        yield [ListedName(one.key_id, time_of(one.create_time)) for one in answer.names]
        if not answer.next_page_token:
            return
        empty = 0 if names else empty + 1
        if answer.next_page_token == token or empty >= MAX_EMPTY_PAGES:
            raise ServerFailure(f"the server's list of {_wanted(prefix)} does not go on: report it")
        last, token = names[-1] if names else last, answer.next_page_token


def _check_names(prefix: str, last: str, names: Sequence[str]) -> None:
    """Raise ServerFailure unless these names may follow `last` in a listing of this prefix."""
    if len(names) > MAX_PAGE:
        raise ServerFailure(f"the server answered List with {len(names)} names instead of {MAX_PAGE}: report it")
    for name in names:
        if not is_key_id(name) or not name.startswith(prefix):
            raise ServerFailure(f"the server listed {quote(name)} among {_wanted(prefix)}: report it")
        if name <= last:  # ASCII, so this is the order of their bytes
            raise ServerFailure(f"the server listed {quote(name)} after {quote(last)}, out of order: report it")
        last = name


def _wanted(prefix: str) -> str:
    return f"names that begin with {quote(prefix)}" if prefix else "all names"
