"""The process's own connections: listed, found by the address of their peer, and cut.

grpc.aio can neither cancel a reply that its peer does not take nor close one connection. `shutdown` of the connection's
descriptor does both: gRPC then frees what it holds for it, and notices nothing else.

The rule of this file: only what is connected and has exactly this peer is touched. Unix sockets have no peer address.
"""

import ipaddress
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from keyvault_api.sockets import duplicate_socket

_DESCRIPTORS = Path("/proc/self/fd")

Address = tuple[str, int]
"""Host and port."""


@dataclass(frozen=True, slots=True)
class Connection:
    """One connection of this process."""

    descriptor: int
    port: int
    """Port of our end."""
    peer: Address

    def cut(self) -> bool:
        """End it at once, in both directions; return whether it was still there."""
        return _cut_if(self.descriptor, self.peer)


class Connections:
    """The process's connections. Each is asked for its addresses once: with 1,000 open, a look takes some 4 ms."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int, int], Connection | None] = {}
        """By descriptor, device and inode, oldest first; None for what is not a connection."""

    def look(self) -> list[Connection]:
        """Return those that are open, oldest first. Raises OSError if there is no descriptor left for the list."""
        if not _DESCRIPTORS.is_dir():
            return []
        with os.scandir(_DESCRIPTORS) as entries:
            keys = {key: None for entry in entries if (key := _key(int(entry.name)))}
        known = {key: connection for key, connection in self._known.items() if key in keys}
        known |= {key: _connection(key[0]) for key in keys if key not in known}
        self._known = known
        return [connection for connection in known.values() if connection is not None]


def address_of(peer: str) -> Address | None:
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


def _key(descriptor: int) -> tuple[int, int, int] | None:
    """Return what distinguishes an open file from a later one of the same descriptor; None if it was closed."""
    try:
        status = os.stat(descriptor)
    except OSError:
        return None
    return descriptor, status.st_dev, status.st_ino


def _connection(descriptor: int) -> Connection | None:
    try:
        with duplicate_socket(descriptor) as ours:
            peer = _peer_of(ours)
            return Connection(descriptor, ours.getsockname()[1], peer) if peer else None
    except OSError:  # not a socket, not connected, or closed in between
        return None


def _cut_if(descriptor: int, address: Address) -> bool:
    """End this connection if its peer has the address."""
    try:
        with duplicate_socket(descriptor) as ours:
            if _peer_of(ours) != address:
                return False
            ours.shutdown(socket.SHUT_RDWR)
    except OSError:  # not a socket, not connected, or closed in between
        return False
    return True


def _peer_of(connection: socket.socket) -> Address | None:
    if connection.family not in (socket.AF_INET, socket.AF_INET6):
        return None
    host, port, *_ = connection.getpeername()
    return _plain(host), port


def _plain(host: str) -> str:
    """Return an address in one form: an IPv4 address that was mapped into IPv6 as IPv4."""
    address = ipaddress.ip_address(host.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)
