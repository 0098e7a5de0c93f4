"""DynamoDB's condition expressions, as far as the server writes them.

    condition = term, { "OR", term }      term = factor, { "AND", factor }
    factor = "NOT", factor | "(", condition, ")" | function | path, "=", value

Paths are #names and values :values, always. The rule of this file: it refuses names and values that the expression does
not use, as AWS does.

Source: DynamoDB Developer Guide "Condition and filter expressions, operators, and functions".
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from tests.server.backends.aws.standins.service import InvalidInput, Parameters

Item = Mapping[str, Mapping[str, Any]]
_TOKEN = re.compile(r"\s*([#:]?\w+|[(),=])")
_PATH = re.compile(r"#\w+")


def holds(given: Parameters, item: Item | None) -> bool:
    """Return whether the call's ConditionExpression is true of what is stored. Raises InvalidInput."""
    if "ConditionExpression" not in given:
        return True
    return _evaluated("ConditionExpression", given, item or {})


def selects(given: Parameters, item: Item) -> bool:
    """Return whether a Query's KeyConditionExpression selects the item. Raises InvalidInput."""
    if any(value == {"S": ""} for value in given["ExpressionAttributeValues"].values()):
        raise InvalidInput("One or more parameter values are not valid: an empty value of a key")
    return _evaluated("KeyConditionExpression", given, item)


def _evaluated(expression: str, given: Parameters, item: Item) -> bool:
    condition = _Condition(expression, given, item)
    result = condition.parse()
    condition.refuse_unused()
    return result


def projected(given: Parameters, item: Item) -> Item:
    """Return what the call's ProjectionExpression leaves of the item. Raises InvalidInput."""
    if "ProjectionExpression" not in given:
        return item
    paths = [path.strip() for path in given["ProjectionExpression"].split(",")]
    names = given.get("ExpressionAttributeNames", {})
    if not all(_PATH.fullmatch(path) and path in names for path in paths) or set(names) - set(paths):
        raise InvalidInput("ProjectionExpression and ExpressionAttributeNames do not fit")
    if len(set(paths)) < len(paths):
        raise InvalidInput("two document paths overlap")
    return {names[path]: item[names[path]] for path in paths if names[path] in item}


class _Condition:
    """Parses and evaluates in one pass, and always all of it, so that an error is found whatever is stored."""

    def __init__(self, expression: str, given: Parameters, item: Item) -> None:
        self._tokens = list(_tokens(given[expression]))
        self._names: Mapping[str, str] = given.get("ExpressionAttributeNames", {})
        self._values: Mapping[str, Mapping[str, Any]] = given.get("ExpressionAttributeValues", {})
        self._item = item
        self._used: set[str] = set()

    def parse(self) -> bool:
        result = self._any()
        if self._tokens:
            raise InvalidInput("the expression goes on where it should end")
        return result

    def refuse_unused(self) -> None:
        if unused := {*self._names, *self._values} - self._used:
            raise InvalidInput(f"unused in expressions: {sorted(unused)}")

    def _any(self) -> bool:
        result = self._all()
        while self._next_is("OR"):
            result = self._all() or result
        return result

    def _all(self) -> bool:
        result = self._factor()
        while self._next_is("AND"):
            result = self._factor() and result
        return result

    def _factor(self) -> bool:
        if self._next_is("NOT"):
            return not self._factor()
        if self._next_is("("):
            result = self._any()
            self._expect(")")
            return result
        if self._tokens and self._tokens[0].startswith("#"):
            attribute = self._attribute()
            self._expect("=")
            return self._value() == attribute
        return self._function(self._take())

    def _function(self, name: str) -> bool:
        self._expect("(")
        attribute = self._attribute()
        if name == "attribute_type":
            self._expect(",")
            result = self._value()["S"] in (attribute or {})
        elif name == "begins_with":
            self._expect(",")
            result = (attribute or {}).get("S", "").startswith(self._value()["S"])
        elif name in ("attribute_exists", "attribute_not_exists"):
            result = (attribute is not None) is (name == "attribute_exists")
        else:
            raise InvalidInput(f"invalid function name: {name}")
        self._expect(")")
        return result

    def _attribute(self) -> Mapping[str, Any] | None:
        return self._item.get(self._given(self._names))

    def _value(self) -> Mapping[str, Any]:
        value: Mapping[str, Any] = self._given(self._values)
        return value

    def _given(self, given: Mapping[str, Any]) -> Any:
        token = self._take()
        if token not in given:
            raise InvalidInput(f"{token} is not defined")
        self._used.add(token)
        return given[token]

    def _next_is(self, token: str) -> bool:
        if self._tokens[:1] != [token]:
            return False
        del self._tokens[0]
        return True

    def _expect(self, token: str) -> None:
        if not self._next_is(token):
            raise InvalidInput(f"{token} expected")

    def _take(self) -> str:
        if not self._tokens:
            raise InvalidInput("the expression ends too early")
        return self._tokens.pop(0)


def _tokens(expression: str) -> Iterator[str]:
    at = 0
    while at < len(expression.rstrip()):
        found = _TOKEN.match(expression, at)
        if found is None:
            raise InvalidInput("the expression has an invalid token")
        yield found[1]
        at = found.end()
