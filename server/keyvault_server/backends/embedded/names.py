"""Names of live or deleted records, by the index `names` of the records' table.

The rule of this file: a page costs its own names, wherever it begins and whatever else is stored. The index holds all
that a page shows, and its names are in the order of the answer.
"""

from collections.abc import Sequence
from typing import Any

from keyvault_api.envelope import Kind
from keyvault_server.core.ports import ListedName, NamePage

# A writer that bypasses the vault may have stored text that is not UTF-8, and times of any type.
NAMES = (
    "SELECT CAST(key_id AS BLOB), CAST(created AS INTEGER) FROM record"
    " WHERE tenant = ? AND kind = ? AND key_id >= ? AND key_id < ? ORDER BY key_id LIMIT ?"
)
_BEFORE_ALL, _AFTER_ALL = "\0", "\x7f"
"""Before and after every character of a name."""


def page_values(tenant: str, prefix: str, after: str, limit: int, *, deleted: bool) -> tuple[str | int, ...]:
    """Return the values of NAMES for a page, and for one name more."""
    kind = Kind.TOMBSTONE if deleted else Kind.DATA
    return tenant, kind, after + _BEFORE_ALL if after else prefix, prefix + _AFTER_ALL, limit + 1


def page_of(rows: Sequence[tuple[Any, ...]], limit: int) -> NamePage:
    """Return the page; a row beyond its limit shows that it is not the last one."""
    names = [ListedName(key_id.decode(errors="backslashreplace"), created) for key_id, created in rows[:limit]]
    return NamePage(names, names[-1].key_id if len(rows) > limit else None)
