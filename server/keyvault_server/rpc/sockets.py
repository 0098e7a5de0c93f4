"""The process's own connections, found by the address of their peer, and cut.

grpc.aio can neither cancel a reply that its peer does not take nor close one connection. `shutdown` of the connection's
descriptor does both: gRPC then frees what it holds for it, and notices nothing else.

The rule of this file: only what is connected and has exactly this peer is touched. Unix sockets have no peer address.
"""

import ipaddress
import os
import socket
from pathlib import Path
from urllib.parse import unquote

_DESCRIPTORS = Path("/proc/self/fd")


def address_of(peer: str) -> tuple[str, int] | None:
    """Return host and port of a peer as gRPC writes it ("ipv4:127.0.0.1:50", "ipv6:%5B::1%5D:50"); None without one."""
    family, _, rest = unquote(peer).partition(":")
    host, _, port = rest.rpartition(":")
    if family not in ("ipv4", "ipv6") or not port.isdecimal():
        return None
    return _plain(host.strip("[]")), int(port)


def cut(peer: str) -> bool:
    """End the connection of this peer at once, in both directions; return whether there was one."""
    address = address_of(peer)
    if address is None or not _DESCRIPTORS.is_dir():
        return False
    return any(_cut_if(int(entry.name), address) for entry in _DESCRIPTORS.iterdir())


def _cut_if(descriptor: int, address: tuple[str, int]) -> bool:
    """End this connection if its peer has the address."""
    try:
        # A duplicate: closing ours leaves gRPC's descriptor as it is.
        with socket.socket(fileno=os.dup(descriptor)) as ours:
            if _peer_of(ours) != address:
                return False
            ours.shutdown(socket.SHUT_RDWR)
    except OSError:  # not a socket, not connected, or closed in between
        return False
    return True


def _peer_of(connection: socket.socket) -> tuple[str, int] | None:
    if connection.family not in (socket.AF_INET, socket.AF_INET6):
        return None
    host, port, *_ = connection.getpeername()
    return _plain(host), port


def _plain(host: str) -> str:
    """Return an address in one form: an IPv4 address that was mapped into IPv6 as IPv4."""
    address = ipaddress.ip_address(host.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)
