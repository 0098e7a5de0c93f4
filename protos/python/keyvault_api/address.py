"""What both sides know of addresses: which may be used in plaintext, and the path of a unix socket."""

import ipaddress
import os

MAX_SOCKET_PATH = 107
"""Bytes in the path of a unix socket (unix(7): sun_path without its end)."""


def socket_path(address: str) -> str:
    """Return the path in unix:/path or unix:///path."""
    return address.removeprefix("unix:").removeprefix("//")


def socket_path_size(address: str) -> int:
    """Return the bytes of the path in unix:/path, of which a socket has at most MAX_SOCKET_PATH."""
    return len(os.fsencode(socket_path(address)))


def is_loopback(address: str) -> bool:
    """Return True for unix sockets, and for host:port of a host that only this machine reaches."""
    if address.startswith("unix:"):
        return True
    host = address.removeprefix("dns:///").rpartition(":")[0]
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        return False  # gRPC takes all of it for an IPv6 address without a port
    host = host.removeprefix("[").removesuffix("]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
