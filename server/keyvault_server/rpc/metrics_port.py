"""The port that Prometheus scrapes: /metrics by HTTP, in plaintext, on threads of its own.

The rule of this file: someone who can connect costs little, and shuts nobody out. A connection has SCRAPE_SECONDS for
all of its request, however it sends it. If SCRAPES connections are open, the next one takes the place of the oldest: a
scrape takes milliseconds, so the oldest one is hardly a scrape.
"""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer
from prometheus_client.registry import Collector

from keyvault_server.core.errors import OperatorError

SCRAPES = 8
"""Maximum connections, each of which costs a thread and a descriptor."""
SCRAPE_SECONDS = 5.0
"""Longest time of a connection, from its first byte to its last."""


class CannotServeMetrics(OperatorError):
    """The metrics address is in use, or not an address of this machine."""


@contextlib.contextmanager
def serve_metrics(metrics: Collector | None, address: str | None) -> Iterator[int | None]:
    """Serve the metrics while the body runs; yield the port; None: nowhere. Raises CannotServeMetrics."""
    if address is None or metrics is None:
        yield None
        return
    registry = CollectorRegistry()
    registry.register(metrics)
    try:
        server = _server(address, registry)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or "the host is not a valid name"
        raise CannotServeMetrics(f"cannot serve metrics on {address}: {why}") from None
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        with contextlib.suppress(OSError):
            server.socket.shutdown(socket.SHUT_RDWR)  # wakes the thread, which looks twice a second for the next line
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(WSGIRequestHandler):
    timeout = SCRAPE_SECONDS

    def handle(self) -> None:
        with contextlib.suppress(OSError):  # a connection that sends nothing, was reset, or took too long
            super().handle()

    def log_message(self, format: str, *values: object) -> None:  # noqa: A002
        """Log nothing."""


class _Server(ThreadingWSGIServer):
    """A server with limits: prometheus_client's own accepts any number of connections and waits for each for ever."""

    request_queue_size = 128  # with 5, connections that wait to be accepted keep a scrape out for seconds

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._since: dict[Any, float] = {}  # by connection, the oldest first
        self._changing = threading.Lock()
        self._places = threading.BoundedSemaphore(2 * SCRAPES)  # those whose connection has ended are not gone yet

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        with self._changing:
            if len(self._since) >= SCRAPES:
                self._end(next(iter(self._since)))
            self._since[request] = time.monotonic()
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._changing:
                self._since.pop(request, None)
            self._places.release()

    def service_actions(self) -> None:
        """End the connections whose time is up; `serve_forever` calls this twice a second."""
        oldest = time.monotonic() - SCRAPE_SECONDS
        with self._changing:
            for request in [one for one, since in self._since.items() if since <= oldest]:
                self._end(request)

    def _end(self, request: Any) -> None:
        """Let the thread of a connection see its end."""
        del self._since[request]
        with contextlib.suppress(OSError):
            request.shutdown(socket.SHUT_RDWR)


def _server(address: str, registry: CollectorRegistry) -> _Server:
    """Return a server that is bound and listening. Raises OSError, UnicodeError."""
    host, _, port = address.rpartition(":")
    family, *_, found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)[0]
    of_family = type("_ServerOfFamily", (_Server,), {"address_family": family})
    return make_server(str(found[0]), int(port), make_wsgi_app(registry), of_family, _Handler)
