"""Parts that every item of the table has: its partition key, and attributes that may be of any type.

The rule of this file: what is read here may have been written by anyone who can write the table.
"""

from collections.abc import Mapping
from typing import Any

KEY = "pk"
SEPARATOR = "#"
"""Stands between tenant and key_id in a partition key; neither may contain it."""

Item = Mapping[str, Any]


def partition_key(tenant: str, key_id: str) -> str:
    """Return the partition key of a record's item."""
    return tenant + SEPARATOR + key_id


def binary_of(item: Item, name: str) -> bytes | None:
    """Return the attribute; None if it is missing or of another type."""
    value: bytes | None = item.get(name, {}).get("B")
    return value


def time_of(item: Item, name: str) -> int:
    """Return the attribute, or 0 if it is not a valid time: times are informational."""
    return _number_of(item, name, 18)


def revision_of(item: Item, name: str) -> int:
    """Return the attribute, or 0, which is not a revision, if it is not one."""
    return _number_of(item, name, 19)


def _number_of(item: Item, name: str, most_digits: int) -> int:
    digits = item.get(name, {}).get("N", "")
    return int(digits) if digits.isdecimal() and len(digits) <= most_digits else 0
