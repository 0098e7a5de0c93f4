"""Every command lets nobody but root read its memory, before it reads or writes a file of the operator's."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from keyvault_server.operations.cli import app
from tests.support.forked import run_forked
from tests.support.processes import STARTED

pytestmark = [pytest.mark.process, pytest.mark.slow]

WATCHED = """
import atexit, ctypes, json, os, resource, sys

folder, ended = sys.argv[1], {}

def state():
    dumpable = ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)  # PR_GET_DUMPABLE
    return [dumpable, *resource.getrlimit(resource.RLIMIT_CORE)]

def watch(event, arguments):
    if event in ("open", "sqlite3.connect") and isinstance(arguments[0], (str, bytes)):
        path = os.fsdecode(arguments[0])
        if path.startswith(folder) and path not in ended:
            ended[path] = None
            ended[path] = state()

sys.addaudithook(watch)

from keyvault_server.operations.cli import main

for line, report in json.load(sys.stdin):
    if os.fork() == 0:
        break
    os.wait()
else:
    os._exit(0)

def say():
    with open(report, "w") as file:
        json.dump([open_state, ended, state()], file)

sys.argv[1:] = line.split()
open_state = state()
atexit.register(say)
main()
"""
"""Runs each line of the command in a fork, and reports on it: the states of its memory."""
COMMANDS = {
    "init --data {0}/new": "keyring.json",
    "backup {0}/saved --data {0}/data": "saved",
    "rotate-master-key --data {0}/data": "keyring.json",
    "purge prod/none --yes --data {0}/data": "keyring.json",
    "sweep --data {0}/data": "keyring.json",
    "audit verify {0}/audit.jsonl": "audit.jsonl.key",
    "audit public-key --key {0}/audit.jsonl.key": "audit.jsonl.key",
    "check-config": "server.key",
    "policy test Read prod/a --as jwt:alice --policy {0}/policy.toml": "policy.toml",
    "dev-certs {0}/other-certs": "server.key",
    "healthcheck --address 127.0.0.1:1": "",
}
"""Command lines, with the name of a file that each reads or writes."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store, an audit log with its key, a policy and certificates."""
    made = tmp_path_factory.mktemp("operator")
    (made / "policy.toml").write_text('[[caller]]\nidentity = "jwt:alice"\ntenant = "acme"\n')
    for line in ("dev-certs {0}/certs", "init --data {0}/data", "purge prod/none --yes --data {0}/data"):
        run_forked([*STARTED, *line.format(made).split()], environment=environment(made), timeout=60)
    return made


def environment(folder: Path) -> dict[str, str]:
    certificate = {"CERTIFICATE": "server.pem", "PRIVATE_KEY": "server.key"}
    tls = {f"KEYVAULT_TLS_{name}": str(folder / "certs" / file) for name, file in certificate.items()}
    ready = tls if (folder / "certs").exists() else {}
    return os.environ | {"KEYVAULT_AUDIT_FILE": str(folder / "audit.jsonl"), "PYTHONPATH": ""} | ready


@pytest.fixture(scope="module")
def reports(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What was seen of each command: before it, when it opened files of the folder, and at its end."""
    made = tmp_path_factory.mktemp("reports")
    reports = {line: made / str(number) for number, line in enumerate(COMMANDS)}
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    subprocess.run(
        [sys.executable, "-c", WATCHED, str(folder)],
        input=json.dumps([(line.format(folder), str(report)) for line, report in reports.items()]),
        env=environment(folder),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, (hard, hard)),
        text=True,
        timeout=60,
        check=True,
    )
    return reports


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_closes_its_memory_before_it_opens_a_file(reports: dict[str, Path], line: str) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    before, opened, at_end = json.loads(reports[line].read_text())
    assert before == [1, hard, hard], "or the rest shows nothing"
    assert at_end == [0, 0, 0]
    assert {path: state for path, state in opened.items() if state != [0, 0, 0]} == {}
    assert any(Path(path).name.startswith(COMMANDS[line]) for path in opened) or not COMMANDS[line]


def test_every_command_is_looked_at() -> None:
    """Except `serve`, which leaves no core file (tests/client/test_core_files.py)."""
    groups = ("audit", "policy")
    names = {name for name in app if not name.startswith("-")} - set(groups)
    names |= {f"{group} {name}" for group in groups for name in app[group] if not name.startswith("-")}
    looked_at = {line for line in names if any(f"{known} ".startswith(f"{line} ") for known in COMMANDS)}
    assert names - looked_at == {"serve"}
