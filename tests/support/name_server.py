"""A DNS server on loopback that knows one answer: the same addresses for every name.

gRPC asks it for `dns://ADDRESS/host:port`. Source: RFC 1035, section 4.
"""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

_HEADER = struct.Struct(">6H")
_ANSWER = struct.Struct(">3HIH4s")
_A, _IN = 1, 1
_RESPONSE = 0x8180  # a response to a recursive query, without an error
_FIRST_NAME = 0xC00C  # a pointer to the name in the question


@asynccontextmanager
async def name_server(*addresses: str) -> AsyncIterator[str]:
    """Answer every query for IPv4 addresses with these, and others with none; yield host:port of the server."""
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: _Server(addresses), local_addr=("127.0.0.1", 0))
    try:
        host, port = transport.get_extra_info("sockname")
        yield f"{host}:{port}"
    finally:
        transport.close()


class _Server(asyncio.DatagramProtocol):
    def __init__(self, addresses: tuple[str, ...]) -> None:
        self._addresses = addresses

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        number, *_ = _HEADER.unpack_from(data)
        end = data.index(b"\0", _HEADER.size) + 5  # the name, its type and its class
        kind, _ = struct.unpack(">HH", data[end - 4 : end])
        found = self._addresses if kind == _A else ()
        answers = (_ANSWER.pack(_FIRST_NAME, _A, _IN, 60, 4, socket.inet_aton(one)) for one in found)
        header = _HEADER.pack(number, _RESPONSE, 1, len(found), 0, 0)
        self._transport.sendto(header + data[_HEADER.size : end] + b"".join(answers), addr)
