"""Changes to bytes, drawn by a seed and written down as JSON: ["flip", 17, 3]. Places are taken modulo the length."""

import random
from collections.abc import Callable
from typing import Any

Edit = list[Any]
"""What to do, and its arguments."""

PLACES = 2**20
LENGTHS = (1, 1, 2, 7, 16, 63, 255, 16_400)


def draw_edit(chance: random.Random) -> Edit:
    """Any one."""
    at = chance.choice((0, 1, 3, 5, 8, 15, 16, 40, 72, chance.randrange(PLACES)))
    what = chance.choice(tuple(_EDITS))
    if what == "insert":
        return [what, at, chance.randbytes(chance.choice(LENGTHS[:-1])).hex()]
    if what == "flip":
        return [what, at, chance.randrange(8)]
    if what == "set":
        return [what, at, chance.choice((0x00, 0x01, 0x2F, 0x7F, 0x80, 0xFF, chance.randrange(256)))]
    return [what, at, chance.choice(LENGTHS)]


def edited(data: bytes, edit: Edit) -> bytes:
    """The bytes after it; unchanged where there is nothing that it could change."""
    what, at, argument = edit
    return _EDITS[what](data, at % (len(data) + 1), argument)


def _flip(data: bytes, at: int, bit: int) -> bytes:
    return data[:at] + bytes(byte ^ 1 << bit for byte in data[at : at + 1]) + data[at + 1 :]


def _set(data: bytes, at: int, value: int) -> bytes:
    return data[:at] + bytes([value]) * len(data[at : at + 1]) + data[at + 1 :]


def _cut(data: bytes, at: int, length: int) -> bytes:
    return data[:at] + data[at + length :]


def _end(data: bytes, at: int, _: int) -> bytes:
    return data[:at]


def _insert(data: bytes, at: int, text: str) -> bytes:
    return data[:at] + bytes.fromhex(text) + data[at:]


def _repeat(data: bytes, at: int, length: int) -> bytes:
    return data[: at + length] + data[at:]


def _swap(data: bytes, at: int, length: int) -> bytes:
    return data[:at] + data[at + length : at + 2 * length] + data[at : at + length] + data[at + 2 * length :]


_EDITS: dict[str, Callable[[bytes, int, Any], bytes]] = {
    "flip": _flip,
    "set": _set,
    "cut": _cut,
    "end": _end,
    "insert": _insert,
    "repeat": _repeat,
    "swap": _swap,
}
