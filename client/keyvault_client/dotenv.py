"""Variables and values as text: dotenv files, and what a shell evaluates.

The dialect: NAME=VALUE on a line, `export ` before it if you like, # begins a comment. A value is bare, or in single
quotes as it is, or in double quotes with the escapes that `_ESCAPES` has; a quoted one may have several lines.

The rule of this file: `sh` and `parse` get the same values from what `render` writes. Nothing that is read is expanded:
a $ is a $.
"""

import re
import shlex
from collections.abc import Mapping

from keyvault_client.errors import InvalidRequest

_LINE = re.compile(
    r"""[ \t]* (?:export[ \t]+)? (?P<name>[A-Za-z_][A-Za-z0-9_]*) [ \t]*=
    (?: [ \t]* (?: '(?P<single>[^']*)' | "(?P<double>(?:[^"\\]|\\.)*)" ) [ \t]* (?:(?<=[ \t])\#[^\n]*)? \r?
      | (?![ \t]*['"]) (?P<bare>[^\n]*) )
    (?:\n|\Z)""",
    re.VERBOSE | re.DOTALL,
)
_NOTHING = re.compile(r"[ \t\r]*(?:#[^\n]*)?(?:\n|\Z)")
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\", '"': '"', "$": "$", "`": "`"}


def parse(text: str) -> dict[str, str]:
    """Return the values of a dotenv file. Raises InvalidRequest with the line's number, and never with its content."""
    values: dict[str, str] = {}
    position = 0
    while position < len(text):
        if nothing := _NOTHING.match(text, position):
            position = nothing.end()
            continue
        found = _LINE.match(text, position)
        number = text.count("\n", 0, position) + 1
        if found is None:
            raise InvalidRequest(f"line {number}: expected NAME=VALUE, with quotes that end")
        if found["name"] in values:
            raise InvalidRequest(f"line {number}: {found['name']} is given twice")
        values[found["name"]] = _value(found)
        position = found.end()
    return values


def render(values: Mapping[str, str], *, export: bool) -> str:
    """Return lines that a shell evaluates to these values, with `export ` before each if asked for."""
    before = "export " if export else ""
    return "".join(f"{before}{name}={_quoted(value)}\n" for name, value in values.items())


def _value(found: re.Match[str]) -> str:
    if found["single"] is not None:
        return found["single"]
    if found["double"] is not None:
        return re.sub(r"\\(.)", lambda escape: _ESCAPES.get(escape[1], escape[0]), found["double"], flags=re.DOTALL)
    return re.split(r"[ \t]#", found["bare"], maxsplit=1)[0].strip(" \t\r")


def _quoted(value: str) -> str:
    """Quote for a shell: in single quotes if they can, which every reader of dotenv files takes."""
    if "'" not in value:
        return shlex.quote(value)
    return '"' + re.sub(r'([\\"$`])', r"\\\1", value) + '"'
