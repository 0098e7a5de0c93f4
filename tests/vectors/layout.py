"""The layout of a vector file, for those that write one and those that read one: docs/envelope.md, section 11.

The rule of this file: it imports nothing of ours, and knows of no cipher. One test takes one line of the file, so
that a change of a vector is a change of a line.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
CHUNKS_AT, CHUNK = 72, 16_400

Test = dict[str, Any]
Edit = dict[str, Any]


class Vectors:
    """A vector file in the making."""

    def __init__(self, kind: str) -> None:
        self._type = kind
        self._groups: list[dict[str, Any]] = []
        self.count = 0

    def group(self, comment: str, kind: str = "") -> None:
        """Begins a group of this type, or of the file's; what `add` adds goes into it."""
        self._groups.append({"type": kind or self._type, "comment": comment, "tests": []})

    def add(self, comment: str, flags: str, **fields: object) -> int:
        """Adds a test with these flags, separated by blanks; returns its tcId."""
        self.count += 1
        self._groups[-1]["tests"].append({"tcId": self.count, "comment": comment, "flags": flags.split(), **fields})
        return self.count

    def text(self, algorithm: str, schema: str, notes: dict[str, str], **more: object) -> str:
        """The file."""
        used = {flag for group in self._groups for test in group["tests"] for flag in test["flags"]}
        assert used == set(notes), f"flags without a note, or notes without a test: {used ^ set(notes)}"
        top = {"algorithm": algorithm, "schema": schema, "numberOfTests": self.count, **more, "notes": notes}
        groups = ",\n".join(_group(group) for group in self._groups)
        return f'{json.dumps(top, indent=2).removesuffix(chr(10) + "}")},\n  "testGroups": [\n{groups}\n  ]\n}}\n'


def _group(group: dict[str, Any]) -> str:
    tests = ",\n".join(f"        {json.dumps(test)}" for test in group["tests"])
    head = f'      "type": {json.dumps(group["type"])},\n      "comment": {json.dumps(group["comment"])},\n'
    return f'    {{\n{head}      "tests": [\n{tests}\n      ]\n    }}'


def read(name: str) -> dict[str, Any]:
    """A committed file of this folder."""
    content: dict[str, Any] = json.loads((HERE / name).read_text())
    return content


def every_test(file: dict[str, Any]) -> Iterator[Test]:
    """All tests of a file, in the order of tcId."""
    return (test for group in file["testGroups"] for test in group["tests"])


def of_type(file: dict[str, Any], kind: str) -> Iterator[Test]:
    """The tests of the groups of one type, in the order of tcId."""
    return (test for group in file["testGroups"] if group["type"] == kind for test in group["tests"])


def edited(data: bytes, edits: Iterable[Edit]) -> bytes:
    """`data`, changed by these edits in turn."""
    for edit in edits:
        match edit:
            case {"op": "xor", "offset": at, "value": value}:
                data = data[:at] + bytes([data[at] ^ value]) + data[at + 1 :]
            case {"op": "set", "offset": at, "hex": new}:
                data = data[:at] + bytes.fromhex(new) + data[at + len(new) // 2 :]
            case {"op": "truncate", "length": length}:
                data = data[:length]
            case {"op": "append", "hex": new}:
                data += bytes.fromhex(new)
            case {"op": "pad", "length": length}:
                data = data.ljust(length, b"\x00")
            case {"op": "chunks", "order": order}:
                starts = [CHUNKS_AT + CHUNK * index for index in order]
                data = data[:CHUNKS_AT] + b"".join(data[at : at + CHUNK] for at in starts)
            case _:
                raise ValueError(f"no such edit: {edit}")
    return data


def put(offset: int, new: bytes) -> Edit:
    return {"op": "set", "offset": offset, "hex": new.hex()}


def flip(offset: int, value: int = 1) -> Edit:
    return {"op": "xor", "offset": offset, "value": value}


def cut(length: int) -> Edit:
    return {"op": "truncate", "length": length}


def append(new: bytes) -> Edit:
    return {"op": "append", "hex": new.hex()}


def pad(length: int) -> Edit:
    return {"op": "pad", "length": length}


def chunks(*order: int) -> Edit:
    return {"op": "chunks", "order": order}


def pattern(length: int) -> bytes:
    """The content of long plaintexts: byte i is i mod 251, a prime, so that no two chunks are alike."""
    return (bytes(range(251)) * (length // 251 + 1))[:length]
