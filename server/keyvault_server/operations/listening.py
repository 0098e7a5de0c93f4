"""Where a server listens: only on an address that is not in use, and on a unix socket of the mode that is asked for.

The rules of this file:

- grpc is not asked whether an address is free. It takes a unix socket away from the server that listens on it. For a
  name with several addresses, such as localhost, it is content with one that is free: two servers would then share what
  callers take for one.
- A unix socket is never open to more users than it shall be, whatever the umask is.
"""

import contextlib
import errno
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc

from keyvault_api.address import socket_path
from keyvault_server.core.errors import OperatorError

_ANSWER_SECONDS = 1.0
_SENTENCES = {
    errno.EADDRINUSE: "it is in use by another program",
    errno.EACCES: "this user may not use ports below 1024",
}


class CannotListen(OperatorError):
    """The address is in use or not one of this machine; one line says which."""


def refuse_taken(address: str) -> None:
    """Raise CannotListen unless a server can listen on host:port or unix:/path."""
    if address.startswith("unix:"):
        _refuse_taken_socket(address)
        return
    host, _, port = address.rpartition(":")
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or "the host is not a valid name"
        raise CannotListen(f"cannot listen on {address}: {why}") from None
    reasons = [_reason(family, there) for family, _, _, _, there in found]
    taken = [reason for reason in reasons if reason in (errno.EADDRINUSE, errno.EACCES)]
    if taken or all(reasons):
        reason = _SENTENCES.get((taken or reasons)[0], "it is not an address of this machine")
        raise CannotListen(f"cannot listen on {address}: {reason}")


@contextlib.contextmanager
def reserved(address: str) -> Iterator[str]:
    """Keep host:port for the workers of this process while the body runs; yield it with its port, if that was 0.

    1. Refuse an address on which somebody listens, as our own workers will.
    2. Bind each address of the host with SO_REUSEPORT, without listening: the system gives the port to no other program
       that asks for any, and workers of the same user can listen on it.
    3. Take a lock, since the workers of two servers that start at the same time could listen together. It is a name
       among the abstract unix sockets, which the system releases when the process ends.

    Raises CannotListen.
    """
    if sys.platform != "linux":
        raise CannotListen("several workers need Linux, which spreads connections over them: unset KEYVAULT_WORKERS")
    # 1.
    refuse_taken(address)
    host, _, port = address.rpartition(":")
    found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    number = int(port)
    with contextlib.ExitStack() as held:
        # A hosts file can name an address twice, and so does the resolver then.
        for family, name in dict.fromkeys((family, str(there[0])) for family, _, _, _, there in found):
            one = held.enter_context(socket.socket(family, socket.SOCK_STREAM))
            # 2.
            if not _bind_shared(one, name, number):
                continue
            number = one.getsockname()[1]  # the same for all addresses of the host
            # 3.
            _lock(held.enter_context(socket.socket(socket.AF_UNIX)), f"{name}:{number}", address)
        yield f"{host}:{number}"


def bind(
    server: grpc.aio.Server,
    address: str,
    socket_mode: int,
    credentials: grpc.ServerCredentials | None = None,
    *,
    shares_port: bool = False,
) -> int:
    """Let a server listen on an address, in plaintext without credentials; return its port. Raises CannotListen.

    One that `shares_port` listens next to others on an address that their parent reserved.
    """
    if not shares_port:
        refuse_taken(address)
    # grpc makes a unix socket of the mode that the umask leaves. Nothing is accepted before the server is started.
    umask = os.umask(0o177)
    try:
        if credentials is None:
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, credentials)
        if address.startswith("unix:"):
            Path(socket_path(address)).chmod(socket_mode)
    except RuntimeError:
        raise CannotListen(f"cannot listen on {address}: it is in use, or not an address of this machine") from None
    except OSError as error:
        raise CannotListen(f"cannot listen on {address}: {error.strerror}") from None
    finally:
        os.umask(umask)
    return port


def _bind_shared(one: socket.socket, host: str, port: int) -> bool:
    """Bind without listening; return False for an address that this machine does not have. Raises CannotListen."""
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if one.family == socket.AF_INET6:
        one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    try:
        one.bind((host, port))
    except OSError as error:
        if error.errno != errno.EADDRINUSE:  # a localhost with ::1 does not mean IPv6
            return False
        raise CannotListen(f"cannot listen on {host}:{port}: {_SENTENCES[errno.EADDRINUSE]}") from None
    return True


def _lock(lock: socket.socket, name: str, address: str) -> None:
    try:
        lock.bind(f"\0keyvault-server {name}")
    except OSError:
        raise CannotListen(f"cannot listen on {address}: it is in use by another keyvault-server") from None


def _reason(family: int, there: tuple[object, ...]) -> int:
    """Return the errno of binding to this address, 0 if it works. A localhost with ::1 does not mean IPv6."""
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind(there)
    except OSError as error:
        return error.errno or errno.EADDRNOTAVAIL
    return 0


def _refuse_taken_socket(address: str) -> None:
    path = Path(socket_path(address))
    if not path.parent.is_dir():
        raise CannotListen(f"cannot listen on {address}: folder {path.parent} does not exist")
    if path.exists() and not path.is_socket():
        raise CannotListen(f"cannot listen on {address}: the file exists and is not a socket")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(_ANSWER_SECONDS)
        try:
            probe.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):  # refused: left over by a server that was killed
            return
        except TimeoutError:
            raise CannotListen(f"cannot listen on {address}: it is in use by a program that does not answer") from None
        except OSError as error:
            raise CannotListen(f"cannot listen on {address}: {error.strerror or error}") from None
    raise CannotListen(f"cannot listen on {address}: it is in use by another program")
