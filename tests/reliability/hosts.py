"""Servers as processes that can be killed and started again at the same address, and the stand-ins that they need.

The rule of this file: everything listens on loopback, and is gone when its context ends.
"""

import asyncio
import os
import random
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.support.engines import REGION, dynalite_process
from tests.support.forked import run_forked
from tests.support.processes import STARTED, ServerProcess, server_process

IDENTITY = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}
"""An identity that only stand-ins take, whatever the machine's own is."""

_START_MOTO = """
import logging, sys
from moto.server import ThreadedMotoServer
logging.getLogger("werkzeug").setLevel(logging.WARNING)
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""


class Host:
    """A place where a server runs: its address and its data stay when the process dies."""

    def __init__(self, data: Path, history: int, **environment: str) -> None:
        self.history = history
        """How many earlier revisions the server keeps readable."""
        self._data = data
        self._environment = {"KEYVAULT_ACCESS_LOG": "false", "KEYVAULT_HISTORY": str(history)} | environment
        self._life = ExitStack()
        self.kills = 0
        self._start(f"127.0.0.1:{_lasting_port()}")

    @property
    def address(self) -> str:
        """host:port, the same after each start."""
        return self._process.address

    def close(self) -> None:
        """Ends the process."""
        self._life.close()

    async def kill_and_restart(self) -> None:
        """kill -9; returns when a new process is ready at the same address and on the same data."""
        self.kills += 1
        self._process.process.kill()
        await asyncio.to_thread(self._start_again)

    async def pause(self, seconds: float) -> None:
        """Stops the process in the middle of whatever it does, and lets it go on as if nothing had been."""
        self._process.process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(seconds)
        self._process.process.send_signal(signal.SIGCONT)

    def _start_again(self) -> None:
        address = self.address
        self._life.close()
        self._start(address)

    def _start(self, address: str) -> None:
        server = server_process(self._data, address, **self._environment)
        self._process: ServerProcess = self._life.enter_context(server)


def _lasting_port() -> int:
    """A free port that nobody is given by chance while the server is down: those begin at 32768."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port


@contextmanager
def hosts(deployment: str, directory: Path) -> Iterator[Sequence[Host]]:
    """The servers of a deployment by name: `embedded` is one, `replicas` are two on one DynamoDB stand-in.

    One replica keeps more earlier revisions than the other.
    """
    with ExitStack() as open_ones:
        if deployment == "embedded":
            servers = [Host(directory / "data", 3)]
        else:
            environment = open_ones.enter_context(stand_ins())
            servers = [Host(directory / f"replica-{history}", history, **environment) for history in (10, 1)]
        for server in servers:
            open_ones.callback(server.close)
        yield servers


@contextmanager
def stand_ins() -> Iterator[dict[str, str]]:
    """KMS (moto) and DynamoDB (dynalite) as processes, with a key and a table; what a server's environment needs."""
    with dynalite_process() as dynamodb, moto_process() as kms:
        environment = IDENTITY | {
            "KEYVAULT_BACKEND": "aws",
            "KEYVAULT_AWS_REGION": REGION,
            "KEYVAULT_AWS_KMS_ENDPOINT": kms,
            "KEYVAULT_AWS_DYNAMODB_ENDPOINT": dynamodb,
        }
        yield environment | _made(environment)


def _made(environment: dict[str, str]) -> dict[str, str]:
    """What `keyvault-server init` says to export."""
    made = run_forked([*STARTED, "init"], environment=os.environ | environment, timeout=60)
    made.check_returncode()
    return dict(setting.split("=", 1) for setting in shlex.split(made.stdout.decode())[1:])


@contextmanager
def moto_process() -> Iterator[str]:
    """The address of a moto server of its own."""
    command = [sys.executable, "-c", _START_MOTO]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.terminate()
