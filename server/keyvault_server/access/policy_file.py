"""The policy's TOML, table by table, each with its line number: for error messages, and for the line that decides.

tomllib gives no line numbers, so a scanner looks for the headers outside strings and comments. A file in which the two
disagree is refused. The rules of this file: it knows where things are, not what they mean; any text is either read or
BadPolicy.
"""

import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

from keyvault_server.core.errors import OperatorError

MAX_SIZE = 4 * 1024 * 1024
"""Characters in a policy: over 10,000 callers."""

# Strings and comments come first, so that they are skipped as a whole. tomllib accepted the text, so all of them end.
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
_POSITION = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")
_CALLER = "[[caller]]"
_RULE = "[[caller.allow]]"
_LIMITS = "[caller.limits]"


class BadPolicy(OperatorError):
    """The policy cannot be used; the message is one line that says where and what to do."""


@dataclass(frozen=True, slots=True)
class Table:
    """One table of the file."""

    line: int
    """Line of its header, from 1."""
    values: dict[str, object]
    lines: dict[str, int]
    """Lines of its keys that begin a line or are in a header."""

    def refuse(self, sentence: object, key: str = "") -> NoReturn:
        """Raise BadPolicy with the line of the key, or of the table."""
        raise BadPolicy(f"line {self.lines.get(key, self.line)}: {sentence}")

    def check_keys(self, *known: str) -> None:
        """Refuse every key that is not known."""
        for key in self.values:
            if key not in known:
                self.refuse(f"unknown key {shown(key)}: expected {listed(known)}", key)

    def text(self, key: str, what: str) -> str:
        """Return the value of a required key, a string; `what` describes it in the error."""
        value = self.values.get(key)
        if not isinstance(value, str):
            self.refuse(f"{key} must be a string: {what}", key)
        return value

    def texts(self, key: str, what: str) -> list[str]:
        """Return the value of a required key, an array of one string or more; `what` describes it in the error."""
        value = self.values.get(key)
        if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
            self.refuse(f"{key} must be an array of one string or more: {what}", key)
        return value


@dataclass(frozen=True, slots=True)
class CallerTables:
    """The tables of one caller."""

    caller: Table
    rules: list[Table]
    limits: Table


@dataclass(frozen=True, slots=True)
class _Section:
    """A header that the scanner found, with the lines of the keys below it."""

    header: str
    line: int
    keys: dict[str, int] = field(default_factory=dict)


def shown(text: str) -> str:
    """Return any text quoted and shortened, as a message of one line can have it."""
    return ascii(text if len(text) <= 80 else text[:77] + "...")


def listed(names: Sequence[str]) -> str:
    """Return "a, b or c"."""
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last


def read_tables(text: str) -> Iterator[CallerTables]:
    """Return the callers, in order. Raises BadPolicy."""
    values = _parse(text)
    top, *callers = _find_sections(text)
    file = Table(1, values, top[0].keys)
    file.check_keys("caller")
    rows = _rows(file, "caller", _CALLER, len(callers))
    if not rows:
        file.refuse("the policy has no caller, so it would deny every call: add a [[caller]] table")
    return map(_caller_tables, rows, callers)


def _caller_tables(values: dict[str, object], sections: list[_Section]) -> CallerTables:
    caller = Table(sections[0].line, values, sections[0].keys)
    rules = [section for section in sections if section.header == _RULE]
    rows = _rows(caller, "allow", _RULE, len(rules))
    limits = values.get("limits", {})
    if not isinstance(limits, dict):
        caller.refuse(f"limits must be one table, {_LIMITS}", "limits")
    at = next((section for section in sections if section.header == _LIMITS), sections[0])
    return CallerTables(
        caller,
        [Table(section.line, row, section.keys) for row, section in zip(rows, rules, strict=True)],
        Table(at.line, limits, at.keys),
    )


def _rows(table: Table, key: str, header: str, headers: int) -> list[dict[str, object]]:
    """Return the tables of an array; refuse if they are not as many as the headers that the scanner found."""
    rows = table.values.get(key, [])
    if not isinstance(rows, list) or len(rows) != headers:
        table.refuse(f"write each {key} as its own table, under a line {header} in exactly this spelling", key)
    return rows


def _parse(text: str) -> dict[str, object]:
    if len(text) > MAX_SIZE:
        raise BadPolicy(f"the policy has over {MAX_SIZE:_} characters: use fewer callers, with prefix patterns")
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        place = _POSITION.search(str(error))
        line = int(place[1]) if place and place[1] else text.count("\n") + 1
        sentence = _POSITION.sub("", str(error))[:200]
        raise BadPolicy(f"line {line}: not valid TOML: {sentence}") from None
    except RecursionError:
        raise BadPolicy("arrays or tables are nested too deeply: a policy needs one level of each") from None
    except ValueError:  # Python limits the digits of a number
        raise BadPolicy("a number has too many digits: write a smaller one") from None


def _find_sections(text: str) -> list[list[_Section]]:
    """Return the sections in groups: those above the callers, then those of each caller, [[caller]] first."""
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
