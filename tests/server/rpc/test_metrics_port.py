"""The port that Prometheus scrapes, under connections that want to keep it for themselves."""

import contextlib
import http.client
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator

import pytest

from keyvault_server.rpc.metrics import Metrics
from keyvault_server.rpc.metrics_port import SCRAPE_SECONDS, SCRAPES, CannotServeMetrics, serve_metrics


@contextlib.contextmanager
def dripping(port: int, connections: int) -> Iterator[list[socket.socket]]:
    """Open connections that send a byte of a request each tenth of a second, as long as they are let."""
    opened = [socket.create_connection(("127.0.0.1", port)) for _ in range(connections)]
    over = threading.Event()

    def drip() -> None:
        while not over.wait(0.1):
            for one in opened:
                with contextlib.suppress(OSError):
                    one.send(b"G")

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        yield opened
    finally:
        over.set()
        thread.join()
        for one in opened:
            one.close()


def scrape(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=2) as answer:
        text: str = answer.read().decode()
        return text


def scrape_until(port: int, end: float) -> str:
    """Scrape again if the threads of connections that were just ended still have all places, as on a busy machine."""
    while True:
        try:
            return scrape(port)
        except (http.client.RemoteDisconnected, ConnectionResetError):
            assert time.monotonic() < end, "shut out"
            time.sleep(0.05)


def is_open(connection: socket.socket) -> bool:
    connection.settimeout(0)
    try:
        return connection.recv(1) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


@pytest.mark.parametrize("connections", [SCRAPES, 5 * SCRAPES])
@pytest.mark.slow
def test_a_scrape_is_answered_while_others_drip(connections: int) -> None:
    """Eight connections that sent a byte a second shut Prometheus out for as long as they liked."""
    with serve_metrics(Metrics(), "127.0.0.1:0") as port:
        assert port is not None
        with dripping(port, connections) as opened:
            for _ in range(3):
                assert "keyvault_calls" in scrape_until(port, time.monotonic() + SCRAPE_SECONDS / 2)
            assert sum(map(is_open, opened)) <= SCRAPES


@pytest.mark.slow
def test_a_request_that_drips_is_ended_in_time() -> None:
    with serve_metrics(Metrics(), "127.0.0.1:0") as port:
        assert port is not None
        began = time.monotonic()
        with dripping(port, 2) as opened:
            while any(map(is_open, opened)):
                assert time.monotonic() - began < SCRAPE_SECONDS + 3
                time.sleep(0.05)
        assert time.monotonic() - began > SCRAPE_SECONDS - 1


def test_an_address_that_is_none_is_refused_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for host, port in (("127.0.0.1", taken.getsockname()[1]), ("a..b", 9)):
            with (
                pytest.raises(CannotServeMetrics, match="cannot serve metrics on"),
                serve_metrics(Metrics(), f"{host}:{port}"),
            ):
                pass
