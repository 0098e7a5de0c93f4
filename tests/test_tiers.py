"""The tiers are held: what a test without a marker may not do raises where it is done."""

import os
import socket
import subprocess
import sys

import pytest

from tests.support.environment import PROXIES, ROOTS, for_downloads, removed
from tests.support.tiers import WrongTier, need_external


def test_a_test_without_a_marker_starts_no_process() -> None:
    with pytest.raises(WrongTier, match="mark it process"):
        subprocess.run([sys.executable, "-c", ""], check=False)
    with pytest.raises(WrongTier, match="mark it process"):
        os.system("true")


def test_a_test_without_a_marker_needs_only_loopback() -> None:
    """192.0.2.1 is an address of documentation (RFC 5737); the port on loopback is one where nobody listens."""
    with socket.socket() as client, pytest.raises(WrongTier, match=r"192\.0\.2\.1"):
        client.connect(("192.0.2.1", 9))
    with socket.socket() as held, socket.socket() as client:
        held.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectionRefusedError):
            client.connect(held.getsockname())


def test_a_tool_is_for_tests_that_are_marked() -> None:
    with pytest.raises(WrongTier, match="uses grpcurl: mark it external"):
        need_external("grpcurl")


@pytest.mark.process
def test_a_test_with_the_marker_starts_processes() -> None:
    assert subprocess.run([sys.executable, "-c", ""], check=False).returncode == 0


def test_the_environment_is_without_the_machines_settings() -> None:
    assert not [name for name in os.environ if name in ROOTS or name.lower() in PROXIES]
    ours = {name: value for name, value in os.environ.items() if name.startswith("KEYVAULT_")}
    assert ours == {"KEYVAULT_STATE": "", "KEYVAULT_KEYS": ""}, "the command keeps no state of the tests, and no keys"
    back = {name: value for name, value in removed.items() if not name.startswith("KEYVAULT_")}
    assert for_downloads() == os.environ | back
