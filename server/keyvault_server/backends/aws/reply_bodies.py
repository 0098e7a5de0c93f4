"""The bodies of replies: refused if no service of AWS sends them, and parsed here where they hold items of a table.

The SDK looks in each attribute for ten types, one after the other, which takes longer than all else it does for a reply
with many items. The rule of this file: it is registered for the SDK's event `before-parse` and uses nothing else of it.

Source: botocore, "before-parse" in endpoint.py; DynamoDB API Reference "AttributeValue".
"""

import json
from base64 import b64decode
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from botocore.parsers import ResponseParserError

WITH_ITEMS = frozenset({"BatchGetItem", "GetItem", "Query", "Scan"})
"""Operations of DynamoDB whose replies hold items."""


def look_at_body(
    response_dict: dict[str, Any], customized_response_dict: dict[str, Any], operation_model: Any, **_event: object
) -> None:
    """Raise ResponseParserError for a success whose body is not a JSON object; make an error's such body empty.

    Both services answer a JSON object, or nothing to an operation without output. The SDK takes a body that is not
    JSON for an empty object, and fails on a list.

    A success with items is parsed: the SDK gets an empty object in its place, and adds what is here to its result.
    """
    body: bytes = response_dict["body"].strip()
    success = response_dict["status_code"] < 300
    if not (body.startswith(b"{") and body.endswith(b"}")):
        if success and operation_model.output_shape:
            raise ResponseParserError
        response_dict["body"] = b"{}"  # the error's code is then its HTTP status
    elif success and operation_model.name in WITH_ITEMS:
        customized_response_dict.update(_with_items(body))
        response_dict["body"] = b"{}"


def _with_items(body: bytes) -> dict[str, Any]:
    """Return what a reply says of items, their binary attributes as bytes; raise whatever it may if it is malformed."""
    return {name: _PARTS[name](part) for name, part in json.loads(body).items() if name in _PARTS and part is not None}


def _item(item: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    return {
        name: value if (binary := value.get("B")) is None else {"B": b64decode(binary)} for name, value in item.items()
    }


def _items(items: Iterable[Mapping[str, Mapping[str, Any]]]) -> list[dict[str, Mapping[str, Any]]]:
    return [_item(item) for item in items]


_PARTS: Mapping[str, Callable[[Any], object]] = {
    "Item": _item,
    "Items": _items,
    "LastEvaluatedKey": _item,
    "Responses": lambda tables: {table: _items(items) for table, items in tables.items()},
    "UnprocessedKeys": lambda tables: {table: {"Keys": _items(left["Keys"])} for table, left in tables.items()},
}
"""How the parts of replies that are used are parsed."""
