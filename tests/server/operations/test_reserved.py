"""A port that several workers share: no other server gets it, whatever it asks for."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from keyvault_server.operations.listening import CannotListen, refuse_taken, reserved


@contextmanager
def listening(address: str) -> Iterator[None]:
    """Listen as a worker does, with SO_REUSEPORT."""
    host, _, port = address.rpartition(":")
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        one.bind((host, int(port)))
        one.listen()
        yield


def test_workers_can_listen_together_on_a_reserved_port() -> None:
    with reserved("127.0.0.1:0") as address, listening(address), listening(address):
        assert not address.endswith(":0")


def test_a_second_server_is_refused_before_the_first_listens() -> None:
    """Two that start at the same time would share the port."""
    refusal = pytest.raises(CannotListen, match="in use by another keyvault-server")
    with reserved("127.0.0.1:0") as address, refusal, reserved(address):
        pass
    with reserved(address):
        pass


def test_a_port_on_which_workers_listen_is_taken() -> None:
    with reserved("127.0.0.1:0") as address, listening(address):
        with pytest.raises(CannotListen, match="in use by another program"):
            refuse_taken(address)
        with pytest.raises(CannotListen, match="in use by another program"), reserved(address):
            pass


def test_workers_do_not_join_others_on_their_port() -> None:
    """Somebody else's workers listen, without a lock of ours."""
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(CannotListen, match="in use"), reserved(address):
            pass


def test_all_addresses_of_a_name_have_one_port() -> None:
    with reserved("localhost:0") as address, listening(address.replace("localhost", "127.0.0.1")):
        assert address.startswith("localhost:")
        with pytest.raises(CannotListen), reserved(address):
            pass


def test_workers_cannot_start_on_an_address_of_others() -> None:
    with pytest.raises(CannotListen, match="not an address of this machine"), reserved("192.0.2.1:0"):
        pass
