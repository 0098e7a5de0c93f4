"""gRPC's connections, which it shows nobody: what ends one works on a duplicate of its descriptor."""

import os
import socket


def duplicate_socket(descriptor: int) -> socket.socket:
    """Return a socket of our own for this one: closing it leaves gRPC's descriptor as it is. Raises OSError."""
    ours = os.dup(descriptor)
    try:
        return socket.socket(fileno=ours)
    except OSError:
        os.close(ours)
        raise
