"""A worker: one of several processes that serve on one port, started and watched by a parent (supervisor.py).

It is an ordinary server, with four differences: it has a share of the limits (shares.py); it listens when its parent
says so; it reports every second that it works; and it stops when its parent says so or is gone.
"""

import asyncio
import contextlib
import socket
from collections.abc import Iterator

from keyvault_server.core.background import in_background
from keyvault_server.core.errors import OperatorError
from keyvault_server.operations.channel import Channel, Order, Report
from keyvault_server.operations.endings import EXPECTED, explain_os_error
from keyvault_server.operations.lifecycle import Orders, Running, serve_until_stopped
from keyvault_server.operations.settings import Settings
from keyvault_server.operations.shares import share_of
from keyvault_server.rpc.handshakes import RefusedHandshakes
from keyvault_server.rpc.metrics import Metrics
from keyvault_server.rpc.shared_metrics import SharedMetrics

REPORT_SECONDS = 1.0


class NeverListened(OperatorError):
    """The parent stopped, or is gone, before this worker served."""


class Worker:
    """This process, as a worker."""

    def __init__(self, number: int, descriptor: int) -> None:
        """`number` is 1 for the first one; `descriptor` is our end of the line to the parent."""
        self.number = number
        self._channel = Channel(socket.socket(fileno=descriptor))
        self._address = ""
        self._turn_came = asyncio.Event()
        self._server: Running | None = None

    @contextlib.contextmanager
    def reporting_refusals(self) -> Iterator[None]:
        """Leave it to the parent to print why the body is refused: all workers are refused for the same reason."""
        try:
            yield
        except EXPECTED as error:
            self._channel.send(Report.REFUSED, str(error))
        except OSError as error:
            self._channel.send(Report.REFUSED, explain_os_error(error))
        else:
            return
        raise SystemExit(1)

    async def serve(self, settings: Settings, handshakes: RefusedHandshakes) -> None:
        """Serve until the parent says stop, or SIGTERM or SIGINT comes. Raises as `running`; NeverListened."""
        orders = Orders()
        orders.follow_signals(orders.stop.set)
        metrics = SharedMetrics(self.number) if settings.metrics_listen else Metrics()
        share = share_of(settings, self.number)

        def announce(server: Running) -> None:
            self._server = server
            self._report_state(server, orders, metrics)
            self._channel.send(Report.SERVING)

        async with in_background(self._follow(orders)), in_background(self._report(orders, metrics)):
            await serve_until_stopped(share, orders, metrics, handshakes, announce, self._turn)
        metrics.publish()

    async def _turn(self) -> str:
        """Return the address to listen on, once the parent gives it. Raises NeverListened."""
        self._channel.send(Report.PREPARED)
        await self._turn_came.wait()
        if not self._address:
            raise NeverListened("stopped before it served")
        return self._address

    async def _follow(self, orders: Orders) -> None:
        async for word, text in self._channel.messages():
            if word == Order.LISTEN:
                self._address = text
                self._turn_came.set()
            elif word == Order.STOP:
                self._stop(orders)
            elif word == Order.HURRY:
                orders.hurry.set()
            elif word == Order.RELOAD:
                orders.reload.set()
        self._stop(orders)

    def _stop(self, orders: Orders) -> None:
        orders.stop.set()
        self._turn_came.set()

    async def _report(self, orders: Orders, metrics: Metrics) -> None:
        """Once it serves, report every second that the event loop turns and whether calls are welcome."""
        while True:
            if self._server is not None:
                self._report_state(self._server, orders, metrics)
            await asyncio.sleep(REPORT_SECONDS)

    def _report_state(self, server: Running, orders: Orders, metrics: Metrics) -> None:
        metrics.publish()
        ready = server.is_ready() and not orders.stop.is_set()
        self._channel.send(Report.READY if ready else Report.UNREADY)
