"""`keyvault-server` as an operator uses it: one line and exit 1 for a refusal, 2 for bad usage, never a traceback."""

import asyncio
import json
import os
import subprocess
from pathlib import Path

import pytest

from keyvault_client import DataKey, KeyVault, NotFound
from tests.support.forked import operate
from tests.support.processes import BIN, server_process
from tests.support.refusals import refusal

pytestmark = [pytest.mark.process, pytest.mark.slow]


def run(*arguments: str | Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    return operate(arguments, {"KEYVAULT_LISTEN": "127.0.0.1:0"} | environment)


def test_the_banner_says_where_the_data_is_and_how_to_try_it(tmp_path: Path) -> None:
    data = tmp_path / "data"
    process = subprocess.Popen(
        [BIN / "keyvault-server", "serve", "--data", data, "--listen", "127.0.0.1:0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    with process:
        banner = [process.stdout.readline() for _ in range(5)]
        process.terminate()
        assert process.wait(20) == 0
    assert "is ready on 127.0.0.1:" in banner[0]
    assert str(data) in banner[1]
    assert "without: TLS, authentication" in banner[2]
    assert banner[3].startswith(f"try:     export KEYVAULT_ADDRESS={banner[0].split()[-2]}")
    assert "generate-key prod/ --save prod.key" in banner[4]


def test_init_can_be_repeated_and_points_at_the_backup(tmp_path: Path) -> None:
    data = tmp_path / "data"
    first = run("init", "--data", data)
    keyring = (data / "keyring.json").read_bytes()
    again = run("init", "--data", data)
    assert (first.returncode, again.returncode) == (0, 0)
    assert "back up" in first.stdout
    assert (data / "keyring.json").read_bytes() == keyring


@pytest.mark.parametrize(
    "arguments",
    [("serve", "--nonsense"), ("nonsense",), ("purge",), ("purge", "a/", "--yes"), ("policy", "test", "Read", "a")],
)
def test_bad_usage_is_one_line_and_exit_2(arguments: tuple[str, ...]) -> None:
    refusal(run(*arguments), 2)


def test_an_unknown_setting_is_exit_2() -> None:
    assert "KEYVAULT_NONSENSE" in refusal(run("check-config", KEYVAULT_NONSENSE="1"), 2)


def test_check_config_prints_what_is_in_force() -> None:
    done = run("check-config", KEYVAULT_LISTEN="127.0.0.1:7")
    assert done.returncode == 0
    assert "KEYVAULT_LISTEN=127.0.0.1:7" in done.stdout.splitlines()


def test_check_config_says_what_each_worker_has() -> None:
    done = run("check-config", "--backend", "aws", KEYVAULT_WORKERS="4")
    assert "#   KEYVAULT_CONCURRENT_CALLS=64" in done.stdout.splitlines()
    assert "#    600.0 MiB  4 workers' processes" in done.stdout.splitlines()


def test_a_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot use" in refusal(run("serve", "--data", tmp_path / "file" / "data"), 1)


def test_rotating_the_keyring_of_nobody_is_refused(tmp_path: Path) -> None:
    assert "no keyring" in refusal(run("rotate-master-key", "--data", tmp_path / "data"), 1)


def test_healthcheck_knows_a_serving_server_from_none(tmp_path: Path) -> None:
    with server_process(tmp_path / "data") as server:
        assert run("healthcheck", "--address", server.address).returncode == 0
    assert "not serving" in refusal(run("healthcheck", "--address", server.address), 1)


def test_a_purge_wants_a_yes_and_leaves_a_vacancy(tmp_path: Path) -> None:
    data, sure = tmp_path / "data", ("--yes", "--insecure-no-audit")
    with server_process(data) as server:
        asyncio.run(_create(server.address))
        assert "in use" in refusal(run("purge", "prod/a", *sure, "--data", data), 1)
        server.stop()
    assert "add --yes to confirm" in refusal(run("purge", "prod/a", "--data", data), 2)
    assert "no such record" in refusal(run("purge", "prod/none", *sure, "--data", data), 1)
    done = run("purge", "prod/a", *sure, "--data", data)
    assert (done.returncode, done.stdout) == (
        0,
        "prod/a is vacant at revision 2: a new owner creates it with --revision 2\n",
    )
    with server_process(data) as server:
        asyncio.run(_take(server.address))


def test_a_purge_is_audited_and_the_store_still_verifies(tmp_path: Path) -> None:
    """The store is still held against the log."""
    data, log = tmp_path / "data", tmp_path / "audit.jsonl"
    audited = {"KEYVAULT_AUDIT_FILE": str(log), "KEYVAULT_DATA": str(data)}
    with server_process(data, **audited) as server:
        asyncio.run(_create(server.address))
        server.stop()
    assert "no such record" in refusal(run("purge", "prod/none", "--yes", SUDO_UID="root", **audited), 1)
    assert run("purge", "prod/a", "--yes", SUDO_UID="1000", **audited).returncode == 0
    held = run("audit", "verify", "--against-store", **audited)
    assert (held.returncode, held.stderr) == (0, "")
    assert "1 records match the logs" in held.stdout
    assert "vacant" not in held.stdout
    with server_process(data, **audited) as server:
        asyncio.run(_take(server.address))
        server.stop()
    assert run("audit", "verify", "--against-store", **audited).returncode == 0
    purges = [line for line in map(json.loads, log.read_bytes().splitlines()) if line.get("method") == "Purge"]
    assert [(line["phase"], line.get("status"), line.get("reason")) for line in purges] == [
        ("outcome", "NOT_FOUND", "RECORD_NOT_FOUND"),
        ("intent", None, None),
        ("outcome", "OK", None),
    ]
    assert [(line["caller"], line["uid"], line.get("sudo_uid")) for line in purges] == [
        ("operator", os.getuid(), None),
        ("operator", os.getuid(), 1000),
        ("operator", os.getuid(), 1000),
    ]


def test_a_purge_without_an_audit_log_is_refused(tmp_path: Path) -> None:
    """Unless that is meant."""
    data = tmp_path / "data"
    with server_process(data, KEYVAULT_AUDIT_FILE=str(tmp_path / "audit.jsonl")) as server:
        asyncio.run(_create(server.address))
        server.stop()
    told = refusal(run("purge", "prod/a", "--yes", "--data", data), 2)
    assert "KEYVAULT_AUDIT_FILE" in told
    assert "--insecure-no-audit" in told
    kept = (data / "records.sqlite3").read_bytes()
    assert run("purge", "prod/a", "--yes", "--data", data, KEYVAULT_INSECURE_NO_AUDIT="true").returncode == 0
    assert (data / "records.sqlite3").read_bytes() != kept


def test_a_purge_needs_no_issuer_and_no_readable_policy(tmp_path: Path) -> None:
    data, policy = tmp_path / "data", tmp_path / "policy.toml"
    policy.write_text("broken")
    assert run("init", "--data", data).returncode == 0
    gated = {"KEYVAULT_JWT_KEYS": "https://127.0.0.1:1/keys", "KEYVAULT_JWT_ISSUER": "i", "KEYVAULT_JWT_AUDIENCE": "a"}
    gated["KEYVAULT_POLICY"] = str(policy)
    gated["KEYVAULT_AUDIT_FILE"] = str(tmp_path / "audit.jsonl")
    assert "no such record" in refusal(run("purge", "prod/none", "--yes", "--data", data, **gated), 1)


@pytest.mark.parametrize("revision", ["-1", "0", str(2**63 - 1), str(2**64)])
def test_a_last_revision_that_leaves_no_next_one_is_bad_usage(tmp_path: Path, revision: str) -> None:
    told = refusal(run("purge", "a", "--yes", "--data", tmp_path / "data", "--last-revision", revision), 2)
    assert "last-revision" in told


async def _create(address: str) -> DataKey:
    async with KeyVault(address) as vault:
        key = await vault.generate_key("prod/a")
        await vault.create("prod/a", b"1", key=key)
        await vault.update("prod/a", b"2", key=key)
        return key


async def _take(address: str) -> None:
    async with KeyVault(address) as vault:
        key = await vault.generate_key("prod/a")
        with pytest.raises(NotFound):
            await vault.read("prod/a", key=key)
        assert (await vault.create("prod/a", b"3", key=key, revision=2)).revision == 3


def test_a_non_loopback_server_names_what_is_missing(tmp_path: Path) -> None:
    """And the flag that allows it."""
    refused = run("serve", "--data", tmp_path / "data", "--listen", "0.0.0.0:0")
    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (1, "", 1)
    assert "--insecure-plaintext" in refused.stderr


def test_a_policy_is_asked_before_it_is_used(tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text(
        '[[caller]]\nidentity = "dns:a.example"\ntenant = "a"\n[[caller.allow]]\nmethods = ["Read", "List"]\n'
        'names = ["x/*"]\n'
    )
    ask = ("policy", "test", "--policy", policy, "--as", "dns:a.example")
    yes, no = run(*ask, "Read", "x/y"), run(*ask, "Update", "x/y")
    assert (yes.returncode, no.returncode) == (0, 1)
    assert yes.stdout.startswith("allowed: line 4: ")
    assert no.stdout.startswith("denied: line 1: ")
    assert "covers this prefix by a pattern" in run(*ask, "List", "x").stdout
    policy.write_text("[[caller]]\n")
    bad = run(*ask, "Read", "x/y")
    assert (bad.returncode, bad.stderr.count("\n")) == (1, 1)


def test_dev_certs_are_written_once(tmp_path: Path) -> None:
    made = run("dev-certs", tmp_path / "certs")
    assert made.returncode == 0
    assert "spiffe://keyvault.test/alice" in made.stdout
    assert (tmp_path / "certs" / "server.key").stat().st_mode & 0o777 == 0o600
    assert run("dev-certs", tmp_path / "certs").returncode == 1
