"""Which addresses only this machine reaches."""

import pytest

from keyvault_api.address import is_loopback


@pytest.mark.parametrize(
    "address", ["127.0.0.1:1", "127.8.8.8:1", "[::1]:1", "localhost:50051", "unix:/run/keyvault", "unix:relative"]
)
def test_loopback_and_unix_sockets_stay_on_this_machine(address: str) -> None:
    assert is_loopback(address)


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0:1",
        "[::]:1",
        "10.0.0.1:1",
        "vault.example:1",
        "localhost.example:1",
        "127.0.0.1.example:1",
        "localhost",
        "127.1:1",
        "2130706433:1",
        "[::ffff:10.0.0.1]:1",
        "ipv4:127.0.0.1:1",
        "dns:127.0.0.1:1",
        "::1:5005",  # gRPC takes it for the address ::1:5005 without a port
        "[[::1]]:1",
        "",
    ],
)
def test_all_else_does_not(address: str) -> None:
    assert not is_loopback(address)
