"""A gRPC proxy in front of the real server: it passes calls on as bytes, and plays the faults that it was given.

It runs in the server's process, on gRPC's threads.

The rule of this file: what it does not play is passed on as it is, in both directions: metadata, deadline, status and
details, and a caller that leaves.
"""

import itertools
import os
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

import grpc

from keyvault_api.sockets import duplicate_socket
from keyvault_client.testing.faults import Faults, Order

SERVICE = "/keyvault.v1.KeyVault/"
MOST_CALLS = 64
"""Calls that are passed on at a time; the next ones wait."""

_NEVER = 3_600.0
_OPTIONS = (
    ("grpc.max_receive_message_length", -1),  # the real server judges the sizes
    ("grpc.max_send_message_length", -1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 50),
)
_SERVER_OPTIONS = (
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # As the real server has it: clients ping idle connections.
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
)
_NOT_PASSED = frozenset(("user-agent",))
"""Metadata that our own channel sends by itself."""


class CannotListen(Exception):
    """The port is in use."""


class Proxy(grpc.GenericRpcHandler):
    """Passes calls from a port of loopback on to `target`, an address of the real server."""

    def __init__(self, target: str, faults: Faults, port: int) -> None:
        """Port 0 takes a free one. Raises CannotListen."""
        self._faults = faults
        self._ending = threading.Event()
        self._ids = itertools.count()
        self._channel = grpc.insecure_channel(target, options=_OPTIONS)
        self._calls: dict[str, Any] = {}
        self._workers = ThreadPoolExecutor(MOST_CALLS, thread_name_prefix="keyvault-proxy")
        self._server = grpc.server(self._workers, options=_SERVER_OPTIONS)
        self._server.add_generic_rpc_handlers((self,))
        try:
            self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        except RuntimeError:
            raise CannotListen(f"port {port} is in use by another program") from None
        self._server.start()

    def stop(self) -> None:
        """Close the port and its connections; calls that wait in a fault end, and reach the server no more."""
        self._ending.set()
        self._server.stop(None).wait()
        self._workers.shutdown(wait=False, cancel_futures=True)
        self._channel.close()

    def call(self, method: str, request: bytes) -> bytes:
        """Call the real server, past all faults. Raises grpc.RpcError."""
        answer: bytes = self._method(SERVICE + method)(request, timeout=30, wait_for_ready=True)
        return answer

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Return what answers a call of any method."""
        called: Any = handler_call_details.method

        def answer(request: bytes, context: Any) -> bytes:
            return self._answer(called, request, context)

        return grpc.unary_unary_rpc_method_handler(answer)

    def _answer(self, called: str, request: bytes, context: Any) -> bytes:
        name = called.removeprefix(SERVICE) if called.startswith(SERVICE) else ""
        for fault in self._faults.meet(name):
            if fault.kind == "delay":
                if self._ending.wait(fault.seconds):
                    context.abort(grpc.StatusCode.UNAVAILABLE, "the server is stopping")
            else:
                self._play(fault, called, request, context)
        return self._forward(called, request, context)

    def _play(self, fault: Order, called: str, request: bytes, context: Any) -> NoReturn:
        if fault.committed:
            self._forward(called, request, context)
        if fault.refusal is not None:
            details = fault.refusal.details(f"played-{next(self._ids):x}")
            context.set_trailing_metadata((("grpc-status-details-bin", details),))
            context.abort(fault.refusal.code, fault.refusal.message)
        if fault.kind == "cut":
            cut(context.peer())
            self._ending.wait(_NEVER if context.is_active() else 0)
        context.abort(grpc.StatusCode.UNKNOWN, "played by keyvault_client.testing")
        raise AssertionError

    def _forward(self, called: str, request: bytes, context: Any) -> bytes:
        """Return the real server's answer, or end the call with its status."""
        metadata = [(name, value) for name, value in context.invocation_metadata() if name not in _NOT_PASSED]
        call = self._method(called).future(request, timeout=context.time_remaining(), metadata=metadata)
        if not context.add_callback(call.cancel):
            call.cancel()
        try:
            answer: bytes = call.result()
        except grpc.FutureCancelledError:  # the caller has left
            context.abort(grpc.StatusCode.CANCELLED, "")
        except grpc.RpcError:
            context.set_trailing_metadata(tuple(call.trailing_metadata() or ()))
            context.abort(call.code(), call.details())
        return answer

    def _method(self, called: str) -> Any:
        if called not in self._calls:
            self._calls[called] = self._channel.unary_unary(called)
        return self._calls[called]


def cut(peer: str) -> bool:
    """End the connection of this peer, "ipv4:127.0.0.1:50" as gRPC writes it; return whether there was one.

    gRPC cannot close one connection. `shutdown` of its descriptor does, and gRPC notices that it has ended.
    """
    port = int(peer.rpartition(":")[2])
    return any(_cut_if(int(name), port) for name in os.listdir("/dev/fd"))  # noqa: PTH208 - names, not files


def _cut_if(descriptor: int, port: int) -> bool:
    """End this connection if its peer has the port; all of our peers are on loopback."""
    try:
        with duplicate_socket(descriptor) as ours:
            # gRPC listens for IPv4 on a socket of IPv6.
            if ours.family not in (socket.AF_INET, socket.AF_INET6) or ours.getpeername()[1] != port:
                return False
            ours.shutdown(socket.SHUT_RDWR)
    except OSError:  # not a socket, not connected, or closed in between
        return False
    return True
