"""HTTP/1.1 as both AWS services speak it, and a server of it on loopback: what stub, stand-ins and fault proxy share.

The rule of this file: it knows no operation. Bodies have a content-length; nothing is chunked and nothing compressed.
"""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial

Connection = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Message:
    """A request or a reply as it came."""

    start: str
    """The request line or the status line."""
    headers: Mapping[str, str]
    """By name in lower case."""
    body: bytes = field(repr=False)

    @property
    def operation(self) -> str:
        """Operation that `x-amz-target` names; the request line without that header."""
        target = self.headers.get("x-amz-target")
        return self.start if target is None else target.rpartition(".")[2]

    def __bytes__(self) -> bytes:
        return _encoded(self.start, self.headers, self.body)


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply that a test makes up."""

    status: int = 200
    body: bytes = b"{}"
    headers: Mapping[str, str] = field(default_factory=lambda: {"x-amzn-RequestId": "1"})

    def __bytes__(self) -> bytes:
        headers = {"content-length": str(len(self.body)), **self.headers}
        return _encoded(f"HTTP/1.1 {self.status} X", headers, self.body)


def aws_error(code: str, status: int = 400, **more: object) -> Reply:
    """Return an error as both services send it."""
    return Reply(status, json.dumps({"__type": f"com.amazonaws#{code}", "message": "SECRET", **more}).encode())


async def read_message(reader: asyncio.StreamReader) -> Message:
    """Return the next request or reply. Raises EOFError if the peer hung up, between two of them or within one."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    start, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return Message(start, headers, await reader.readexactly(int(headers.get("content-length", 0))))


@asynccontextmanager
async def listening(serve: Connection, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Serve on a free port of loopback while the body runs, each connection by `serve`; yield the port."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve_quietly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, EOFError, asyncio.CancelledError):  # the client left, or the test is over
            await serve(reader, writer)

    def end(task: asyncio.Task[None], writer: asyncio.StreamWriter) -> None:
        tasks.discard(task)
        writer.close()  # also where the task was cancelled before it began

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(serve_quietly(reader, writer))
        tasks.add(task)
        task.add_done_callback(partial(end, writer=writer))

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


async def relay(port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass one connection on to a port of loopback, until either side hangs up."""
    there = await asyncio.open_connection("127.0.0.1", port)
    ways = [asyncio.create_task(_pump(reader, there[1])), asyncio.create_task(_pump(there[0], writer))]
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for way in ways:
            way.cancel()
        there[1].close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()


def _encoded(start: str, headers: Mapping[str, str], body: bytes) -> bytes:
    lines = [start, *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(lines).encode("latin-1") + body
