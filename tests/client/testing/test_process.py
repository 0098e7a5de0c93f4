"""The embedded server's process: what it needs, and that nothing of it is left."""

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from keyvault_client import KeyVault
from keyvault_client.testing import EmbeddedServerError, running_server
from keyvault_client.testing.process import ServerProcess

pytestmark = pytest.mark.process


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that has the servers' folders."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def running_in(folder: Path) -> list[int]:
    """Processes whose command line names a folder."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdecimal() and os.fsencode(folder) in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:  # it has ended
            continue
    return [number for number in found if number != os.getpid()]


def vanishes(folder: Path) -> bool:
    """Whether a server's folder and process are gone soon."""
    deadline = time.monotonic() + 10
    while any(folder.iterdir()) or running_in(folder):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_nothing_is_left_of_a_server_that_ended(temporary: Path) -> None:
    with running_server() as server:
        assert len(running_in(temporary)) == 1
        assert server.log is not None
    assert vanishes(temporary)
    with pytest.raises(EmbeddedServerError, match="the embedded server was closed"):
        server.stop()


def test_nothing_is_left_when_the_test_is_killed(tmp_path: Path) -> None:
    program = """
import sys
from keyvault_client.testing import running_server
with running_server() as server:
    server.stop(); server.start()
    print(server.address, flush=True)
    sys.stdin.read()
"""
    test = subprocess.Popen(
        [sys.executable, "-c", program],
        env=os.environ | {"TMPDIR": str(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with test:
        assert test.stdout is not None
        assert test.stdout.readline().startswith("127.0.0.1:")
        assert running_in(tmp_path)
        test.send_signal(signal.SIGKILL)
    assert vanishes(tmp_path)


async def test_nothing_is_left_when_the_start_is_cancelled(temporary: Path) -> None:
    async def start() -> None:
        async with running_server():
            raise AssertionError("started at once")

    starting = asyncio.create_task(start())
    while not running_in(temporary):
        await asyncio.sleep(0.01)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert await asyncio.to_thread(vanishes, temporary)


def test_a_process_that_is_killed_is_reported(temporary: Path) -> None:
    process = ServerProcess()
    while not (found := running_in(temporary)):  # the system shows its command line a moment later
        time.sleep(0.01)
    (pid,) = found
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(EmbeddedServerError, match="the embedded server's process ended with status -9"):
        process.ask("start")
    process.end()
    assert vanishes(temporary)


def test_a_setting_that_the_server_refuses_is_named(temporary: Path) -> None:
    with (
        pytest.raises(EmbeddedServerError, match=r"^unknown setting KEYVAULT_HISTROY: did you mean KEYVAULT_HISTORY"),
        running_server(settings={"KEYVAULT_HISTROY": "3"}),
    ):
        raise AssertionError("it started")
    assert vanishes(temporary)


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "uvloop.py").write_text("raise ModuleNotFoundError('none', name='uvloop')\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    sentence = r"^the server is not installed \(no module uvloop\): pip install 'keyvault-grpc\[testing\]'$"
    with pytest.raises(EmbeddedServerError, match=sentence), running_server():
        raise AssertionError("it started")


async def test_the_machines_settings_do_not_reach_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "logging.py").write_text("raise AssertionError('the wrong module')\n")
    for name in ("KEYVAULT_POLICY", "KEYVAULT_LISTEN", "KEYVAULT_TYPO", "SSL_CERT_FILE"):
        monkeypatch.setenv(name, "/nowhere")
    for name in ("http_proxy", "https_proxy", "HTTPS_PROXY", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with running_server() as server, KeyVault(server.address) as vault:
        await vault.generate_key("prod/")


async def test_it_takes_settings(temporary: Path) -> None:
    async with running_server(settings={"KEYVAULT_UNWRAP_SCOPES": '["prod/db"]'}) as server:
        key = server.generate_key("prod/db")
        async with server.vault() as vault:
            assert (await vault.unwrap_key(key.without_plaintext())).secret() == key.secret()


@pytest.mark.slow
def test_a_long_life_keeps_no_files_and_threads(temporary: Path) -> None:
    with running_server() as server:
        (pid,) = running_in(temporary)

        def held() -> tuple[int, int]:
            # Only root may look at the files: the process has closed its memory.
            files = len(list(Path(f"/proc/{pid}/fd").iterdir())) if os.getuid() == 0 else 0
            return files, len(list(Path(f"/proc/{pid}/task").iterdir()))

        for _ in range(3):
            server.reset()
        before = held()
        for _ in range(10):
            server.reset()
        files, threads = held()
    assert files <= before[0] + 3
    assert threads <= before[1] + 3


def test_the_plugin_imports_nothing_of_ours_but_itself() -> None:
    program = "import sys, pytest; before = set(sys.modules); import keyvault_client.pytest_plugin\n"
    program += "print(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= {"keyvault_client", "keyvault_client.pytest_plugin"}
