"""What a forked process inherits of its parent's connections: nothing that it can use, and nothing that it may free.

gRPC's threads do not exist in the child. With grpcio 1.85 any call there hangs or crashes, a new client's too. So does
freeing a connection, or exiting, which also removes gRPC's descriptors from the parent's event loop: they share the
epoll, so the parent's calls hang. If the parent had closed its connections, gRPC starts afresh in the child.

The rule of this file: a child uses no gRPC if a connection was open at the fork, and keeps what it inherited for ever.
"""

import gc
import os
import time
import weakref
from pathlib import Path
from typing import Protocol

from keyvault_client.errors import WrongProcess

STOP_SECONDS = 1.0
"""Longest wait of a fork for gRPC's threads to end after the last connection was closed."""
_THREADS = {"event_engine", "lifeguard", "grpc_global_tim"}
"""Names that gRPC gives its threads, as Linux truncates them."""


class Closable(Protocol):
    """A connection, open or closed."""

    closed: bool


class _Inheritance:
    def __init__(self) -> None:
        self.ours: weakref.WeakSet[Closable] = weakref.WeakSet()
        self.used = False
        self.inherited = False

    def prepare(self) -> None:
        """If every connection is closed, let gRPC stop before the fork: it does so in threads of its own.

        Frames of old errors may hold a closed connection, hence the collection.
        """
        try:
            if not self.used or not all(one.closed for one in self.ours):
                return
        except RuntimeError:  # the set has changed: a thread opens a connection just now
            return
        self.used = False  # one wait is enough: other code may use gRPC, too
        gc.collect()
        end = time.monotonic() + STOP_SECONDS
        while time.monotonic() < end and any(map(_is_of_grpc, Path("/proc/self/task").glob("*/comm"))):
            time.sleep(0.001)

    def take(self) -> None:
        """Keep what the parent had at the fork."""
        for one in [*self.ours]:
            self.inherited = True
            _keep_for_ever(one)


_inheritance = _Inheritance()
os.register_at_fork(before=_inheritance.prepare, after_in_child=_inheritance.take)


def note_connection(connection: Closable) -> None:
    """Note a connection, which counts in a child as long as it exists here, closed or not."""
    _inheritance.ours.add(connection)
    _inheritance.used = True


def refuse_inherited_connections() -> None:
    """Raise WrongProcess if this process was forked while its parent had a connection."""
    if _inheritance.inherited:
        raise WrongProcess(
            "this process was forked while its parent had a connection, which gRPC does not survive: "
            "close the parent's clients before the fork, or make the first call after it"
        )


def _is_of_grpc(comm: Path) -> bool:
    """Report whether a thread, by the file that has its name, is one of gRPC's."""
    try:
        return comm.read_text().strip() in _THREADS
    except OSError:  # it has ended
        return False


def _keep_for_ever(one: object) -> None:
    """Add a reference that nothing takes away, the end of Python included."""
    import ctypes  # here, because few processes need it

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(one))
