"""A middlebox that forgets a flow, as NAT gateways and load balancers do: what comes over it vanishes, nothing closes.

The rule of this file: forgotten connections stay open on both sides, and new ones are passed on.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.server.backends.aws.wire import listening


class Middlebox:
    """Passes connections on to a port of loopback until it forgets them."""

    def __init__(self, port: int) -> None:
        self._server = port
        self._generation = 0
        self.address = ""
        self.port = 0
        self.accepted = 0
        """Connections so far."""
        self.passed = 0
        """Chunks passed on so far, in both directions."""

    def forget(self) -> None:
        """Drop from now on what comes over the connections that are open, in both directions."""
        self._generation += 1

    async def pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Relay one connection."""
        self.accepted += 1
        generation = self._generation
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._server)
        ways = [
            asyncio.create_task(self._pump(reader, there_writer, generation)),
            asyncio.create_task(self._pump(there_reader, writer, generation)),
        ]
        try:
            await asyncio.gather(*ways)
        finally:
            for way in ways:
                way.cancel()
            there_writer.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, generation: int) -> None:
        while data := await reader.read(65_536):
            if generation == self._generation:
                self.passed += 1
                writer.write(data)
                await writer.drain()
        if generation == self._generation:
            writer.close()
        else:
            await asyncio.Event().wait()  # a close is forgotten too


@asynccontextmanager
async def middlebox(port: int) -> AsyncIterator[Middlebox]:
    """Relay to this port of loopback while the body runs."""
    box = Middlebox(port)
    async with listening(box.pass_on) as own:
        box.address, box.port = f"127.0.0.1:{own}", own
        yield box
