"""Headers of HTTP/2 as the load generator needs them (RFC 7541): a fixed request block, and the status of a reply.

The rule of this file: Huffman's code is never decoded. What is looked for, `grpc-status` and its number, is known in
both spellings, and all else is only counted, so that the table keeps step with the server's.
"""

from collections import deque

from tests.support.frames import literal

_STATUS = {b"grpc-status", bytes.fromhex("9acac8b21234da8f")}
"""The name as it is, as grpc's core writes it, and in Huffman's code, as Go writes it."""
_STATIC = 61
_TABLE_BYTES = 4096
_ENTRY_BYTES = 32
"""What an entry costs in addition to its two strings (RFC 7541, 4.1)."""
_HUFFMAN_SHRINKS_TO = 5
"""Fewest bits of a character in Huffman's code."""


class RequestHeaders:
    """The headers of one kind of call on one connection: spelt out once, then a byte for each."""

    def __init__(self, headers: dict[str, str]) -> None:
        """Encode the headers; the connection must carry no others."""
        self.first = b"".join(literal(name, value, indexed=True) for name, value in headers.items())
        # The latest entry of the dynamic table has the lowest number.
        self.then = bytes(0x80 | (_STATIC + len(headers) - at) for at in range(len(headers)))


def grpc_headers(method: str, authority: str, scheme: str) -> dict[str, str]:
    """Return what a gRPC library sends with a unary call; the deadline is the default one of our client."""
    headers = {":path": method, ":authority": authority, ":method": "POST", ":scheme": scheme, "te": "trailers"}
    return headers | {"content-type": "application/grpc", "user-agent": "keyvault-benchmark/1", "grpc-timeout": "10S"}


class Statuses:
    """The decoder of one connection: finds `grpc-status` in the header blocks of its replies."""

    def __init__(self) -> None:
        self._table: deque[tuple[bytes, bytes, int]] = deque()
        self._size = 0
        self._limit = _TABLE_BYTES
        self._known: dict[bytes, int | None] = {}

    def of(self, block: bytes) -> int | None:
        """Return the status in a block, None if it has none. Every block must be shown, in its order."""
        if block in self._known:
            return self._known[block]
        status, changed = self._decode(block)
        if changed:
            self._known.clear()
        else:
            self._known[block] = status
        return status

    def _decode(self, block: bytes) -> tuple[int | None, bool]:
        at, status, changed = 0, None, False
        while at < len(block):
            byte = block[at]
            if byte & 0xE0 == 0x20:
                self._limit, at = _integer(block, at, 5)
                self._evict()
                changed = True
                continue
            if byte & 0x80:
                number, at = _integer(block, at, 7)
                name, value = self._entry(number)
            else:
                indexed = byte & 0x40
                number, at = _integer(block, at, 6 if indexed else 4)
                name, size = (self._entry(number)[0], 0) if number else (b"", 0)
                if not number:
                    name, size, at = _read_string(block, at)
                value, value_size, at = _read_string(block, at)
                if indexed:
                    self._add(name, value, (size or len(name)) + value_size)
                    changed = True
            if name in _STATUS:
                status = int(value)
        return status, changed

    def _entry(self, number: int) -> tuple[bytes, bytes]:
        if number <= _STATIC:
            return b":static", b""  # none of them is what is looked for, and none is longer than the table
        name, value, _ = self._table[number - _STATIC - 1]
        return name, value

    def _add(self, name: bytes, value: bytes, size: int) -> None:
        self._table.appendleft((name, value, size + _ENTRY_BYTES))
        self._size += size + _ENTRY_BYTES
        self._evict()

    def _evict(self) -> None:
        while self._size > self._limit:
            self._size -= self._table.pop()[2]


def _read_string(block: bytes, at: int) -> tuple[bytes, int, int]:
    """Return a string as it is spelt, its size when decoded, and where the next thing begins."""
    huffman = block[at] & 0x80
    size, at = _integer(block, at, 7)
    text = block[at : at + size]
    return text, size * 8 // _HUFFMAN_SHRINKS_TO if huffman else size, at + size


def _integer(block: bytes, at: int, bits: int) -> tuple[int, int]:
    """Return a number (RFC 7541, 5.1) and where the next thing begins."""
    most = (1 << bits) - 1
    number, at = block[at] & most, at + 1
    if number < most:
        return number, at
    shift = 0
    while True:
        byte, at = block[at], at + 1
        number += (byte & 127) << shift
        shift += 7
        if not byte & 128:
            return number, at
