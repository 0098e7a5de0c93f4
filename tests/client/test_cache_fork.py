"""A cache in a forked process: refused at once, not stale for ever."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import server_process

PROGRAM = """
import os, sys
from keyvault_client import InvalidRequest, NotCached, sync

with sync.KeyVault(sys.argv[1]) as vault:
    key = vault.generate_key("prod/")
    vault.create("prod/db", b"one", key=key)
    with vault.cache({"prod/db": key}) as secrets:
        if os.fork() == 0:
            try:
                secrets["prod/db"]
            except NotCached as error:
                print(error, list(secrets), flush=True)
                os._exit(0)
            os._exit(1)
        assert os.wait()[1] == 0
        vault.update("prod/db", b"two", key=key)
        secrets.refresh()
        assert secrets["prod/db"] == b"two"
"""


@pytest.mark.process
def test_a_child_has_no_values_and_the_parent_goes_on(tmp_path: Path) -> None:
    with server_process(tmp_path / "data") as server:
        command = [sys.executable, "-c", PROGRAM, server.address]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        "no value of prod/db: this cache is that of the parent process, and nothing refreshes it here: "
        "open one in this process []\n"
    )
