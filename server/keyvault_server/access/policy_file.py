"""The policy's TOML, table by table, each with its line: for what is refused, and for what decides.

tomllib knows no lines, so a scanner looks for the headers outside strings and comments, and a file where the two do not
agree is refused. Rule of the file: it knows where things stand, not what they mean; and whatever is wrong with the text
is BadPolicy.
"""

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NoReturn

from keyvault_server.core.errors import OperatorError

MAX_SIZE = 4 * 1024 * 1024
"""Characters in a policy: over 10,000 callers."""

# Strings and comments come first, and are passed over whole. tomllib has accepted the text, so all of them end.
_TOKEN = re.compile(
    r"""
      "{3} [^"\\]* (?: (?: \\. | "{1,2}(?!") ) [^"\\]* )* "{3,5}  |  '{3} .*? '{3,5}
    | " [^"\\\n]* (?: \\. [^"\\\n]* )* "  |  ' [^'\n]* '
    | \# [^\n]*
    | ^ [ \t]* (?P<header> \[ \[? [ \t]* [A-Za-z0-9_-]+ [ \t]* (?: \. [ \t]* [A-Za-z0-9_-]+ [ \t]* )* \]{1,2} )
    | ^ [ \t]* (?P<key> [A-Za-z0-9_-]+ ) [ \t]* =
    """,
    re.VERBOSE | re.DOTALL | re.MULTILINE,
)
_PLACE = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")
_CALLER = "[[caller]]"
_RULE = "[[caller.allow]]"
_LIMITS = "[caller.limits]"


class BadPolicy(OperatorError):
    """The policy cannot be used; one line says where and what to do."""


@dataclass(frozen=True, slots=True)
class Table:
    """One table of the file."""

    line: int
    """Of its header, from 1."""
    values: dict[str, object]
    lines: dict[str, int]
    """Of its keys, as far as they begin a line or stand in a header."""

    def refuse(self, sentence: object, key: str = "") -> NoReturn:
        """Raises BadPolicy with the line of the key, or of the table."""
        raise BadPolicy(f"line {self.lines.get(key, self.line)}: {sentence}")

    def check_keys(self, *known: str) -> None:
        """Refuses every other key."""
        for key in self.values:
            if key not in known:
                self.refuse(f"unknown key {shown(key)}: here stand {', '.join(known)}", key)

    def text(self, key: str, what: str) -> str:
        """The value of a key that has to be there and a string; `what` says of what sort."""
        value = self.values.get(key)
        if not isinstance(value, str):
            self.refuse(f"give {key} as a string: {what}", key)
        return value

    def texts(self, key: str, what: str) -> list[str]:
        """The value of a key that has to be there and an array of strings, not empty; `what` says of what sort."""
        value = self.values.get(key)
        if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
            self.refuse(f"give {key} as an array of one string or more: {what}", key)
        return value


@dataclass(frozen=True, slots=True)
class CallerTables:
    """What the file says of one caller."""

    caller: Table
    rules: list[Table]
    limits: Table


@dataclass(frozen=True, slots=True)
class _Section:
    """A header as the scanner sees it, with the keys below it."""

    header: str
    line: int
    keys: dict[str, int] = field(default_factory=dict)


def shown(text: str) -> str:
    """Any text, for a sentence of one line."""
    return ascii(text if len(text) <= 80 else text[:77] + "...")


def read_tables(text: str) -> Iterator[CallerTables]:
    """The callers, in order. Raises BadPolicy."""
    values = _parsed(text)
    top, *callers = _sections(text)
    file = Table(1, values, top[0].keys)
    file.check_keys("caller")
    rows = _rows(file, "caller", _CALLER, len(callers))
    if not rows:
        file.refuse("the policy names no caller and so would deny everyone: begin with a [[caller]] table")
    return map(_caller_tables, rows, callers)


def _caller_tables(values: dict[str, object], sections: list[_Section]) -> CallerTables:
    caller = Table(sections[0].line, values, sections[0].keys)
    rules = [section for section in sections if section.header == _RULE]
    rows = _rows(caller, "allow", _RULE, len(rules))
    limits = values.get("limits", {})
    if not isinstance(limits, dict):
        caller.refuse(f"limits have to be one table, {_LIMITS}", "limits")
    at = next((section for section in sections if section.header == _LIMITS), sections[0])
    return CallerTables(
        caller,
        [Table(section.line, row, section.keys) for row, section in zip(rows, rules, strict=True)],
        Table(at.line, limits, at.keys),
    )


def _rows(table: Table, key: str, header: str, headers: int) -> list[dict[str, object]]:
    """The tables of an array, which have to be as many as the headers that the scanner saw."""
    rows = table.values.get(key, [])
    if not isinstance(rows, list) or len(rows) != headers:
        table.refuse(f"write each {key} as a table of its own, under a line {header} in just this spelling", key)
    return rows


def _parsed(text: str) -> dict[str, object]:
    if len(text) > MAX_SIZE:
        raise BadPolicy(f"the policy has over {MAX_SIZE:_} characters: write fewer callers, with longer patterns")
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        place = _PLACE.search(str(error))
        line = int(place[1]) if place and place[1] else text.count("\n") + 1
        sentence = _PLACE.sub("", str(error))[:200]
        raise BadPolicy(f"line {line}: this is no TOML: {sentence}") from None
    except RecursionError:
        raise BadPolicy("arrays or tables are nested too deeply for a policy: write one level of each") from None
    except ValueError:  # Python's own limit on the digits of a number
        raise BadPolicy("a number has too many digits: write a smaller one") from None


def _sections(text: str) -> list[list[_Section]]:
    """All sections: first what stands above the callers, then those of each caller, its own before the others."""
    groups = [[_Section("", 1)]]
    line, counted = 1, 0
    for token in _TOKEN.finditer(text):
        if token.lastgroup is None:
            continue
        line, counted = line + text.count("\n", counted, token.start()), token.start()
        if token.lastgroup == "key":
            groups[-1][-1].keys.setdefault(token["key"], line)
            continue
        section = _Section("".join(token["header"].split()), line)
        if section.header == _CALLER:
            groups.append([])
        groups[-1].append(section)
        name, *below = section.header.strip("[]").split(".")
        owner, key = (groups[-1][0], below[0]) if below else (groups[0][0], name)
        owner.keys.setdefault(key, line)
    return groups
