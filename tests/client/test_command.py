"""`keyvault` as a person at a shell uses it."""

import base64
import json
import os
import pty
import subprocess

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7

from keyvault_api import envelope
from keyvault_client import DataKey
from tests.support.processes import BIN
from tests.support.shell import Shell

pytestmark = pytest.mark.process

NAME = "prod/db-password"


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A record of the test's own, on the shared server."""
    return f"prod/{request.node.name}".split("[")[0]


@pytest.mark.slow
def test_a_record_lives_from_create_to_delete(shell: Shell, name: str) -> None:
    shell.ok("generate-key prod/", out="prod.key")
    assert (shell.directory / "prod.key").stat().st_mode & 0o777 == 0o600
    assert shell.ok(f"create {name} --key prod.key", b"s3cret\n") == f"{name} is at revision 1\n".encode()
    assert shell.ok(f"read {name} --key prod.key") == b"s3cret\n"
    assert shell.ok(f"update {name} --key prod.key", b"newer") == f"{name} is at revision 2\n".encode()
    shell.ok(f"generate-key {name}", out="new.key")
    shell.ok(f"rotate-key {name} --key prod.key --new-key new.key")
    assert shell.ok(f"read {name} --key new.key") == b"newer"
    assert "another key" in shell.refused(f"read {name} --key prod.key")
    shell.ok(f"delete {name} --key new.key")
    assert "no such record" in shell.refused(f"read {name} --key new.key", status=3)


def test_a_refusal_names_the_reason_and_the_request(shell: Shell, name: str) -> None:
    shell.ok("generate-key prod/", out="prod.key")
    shell.ok(f"create {name} --key prod.key", b"1")
    assert "[RECORD_EXISTS " in shell.refused(f"create {name} --key prod.key", 4, b"2")
    assert "[STALE_REVISION " in shell.refused(f"update {name} --key prod.key --revision 5", 4, b"2")


@pytest.mark.parametrize(
    "line",
    [
        "",
        "nonsense",
        "read",
        "read prod/x",
        "read prod/x --key nowhere.key",
        "read prod/ --key prod.key",
        "read dev/x --key prod.key",
        "update prod/x --key prod.key --revision zero",
        "update prod/x --key prod.key --revision 0",
        "read prod/x --key prod.key --address vault.example:1",
        "read prod/x --key prod.key --certificate prod.key",
        "read prod/x --key prod.key --server-name vault.example",
        "read prod/x --key notes.txt",
        "generate-key a^b",
    ],
)
def test_bad_usage_is_one_line_and_exit_2(shell: Shell, line: str) -> None:
    shell.ok("generate-key prod/", out="prod.key")
    (shell.directory / "notes.txt").write_text("not a key")
    if line:
        shell.refused(line, status=2, given=b"x")


@pytest.mark.slow
def test_no_server_is_one_line_and_exit_6(shell: Shell) -> None:
    shell.ok("generate-key prod/", out="prod.key")
    assert "cannot connect to 127.0.0.1:1: connection refused. Is the server running?" in shell.refused(
        "read prod/x --key prod.key --address 127.0.0.1:1 --timeout 1", status=6
    )


def test_more_than_a_record_holds_is_refused(shell: Shell) -> None:
    shell.ok("generate-key prod/", out="prod.key")
    assert "380000" in shell.refused("create prod/big --key prod.key", status=2, given=bytes(380_001))


def test_a_key_is_not_shown_on_a_screen(shell: Shell) -> None:
    screen, terminal = pty.openpty()
    try:
        done = subprocess.run(
            [BIN / "keyvault", "generate-key", "prod/"],
            env=shell.environment,
            stdout=terminal,
            stderr=subprocess.PIPE,
            timeout=30,
            check=False,
        )
    finally:
        os.close(terminal)
        os.close(screen)
    assert done.returncode == 2
    assert b"send it to a file" in done.stderr


@pytest.mark.slow
def test_a_key_is_rewrapped_and_unwrapped(shell: Shell) -> None:
    shell.ok("generate-key prod/unwrap", out="full.key")
    shell.ok("rewrap-key --key full.key", out="moved.key")
    full, moved = (DataKey.load(shell.directory / name) for name in ("full.key", "moved.key"))
    assert full.plaintext_key == moved.plaintext_key
    assert full.wrapped_key != moved.wrapped_key
    shell.ok("generate-key prod/unwrap --without-plaintext", out="bare.key")
    assert DataKey.load(shell.directory / "bare.key").plaintext_key is None
    assert "unwrap it first" in shell.refused("create prod/unwrap --key bare.key", status=2, given=b"x")
    shell.ok("unwrap-key --key bare.key", out="whole.key")
    shell.ok("create prod/unwrap --key whole.key", b"x")


@pytest.mark.slow
def test_what_is_sealed_without_a_server_opens_without_one(shell: Shell) -> None:
    shell.ok("generate-key prod/", out="prod.key")
    sealed = shell.ok(f"seal {NAME} --key prod.key --revision 7", b"offline")
    assert shell.ok(f"open {NAME} --key prod.key", sealed) == b"offline"
    shown = shell.ok("inspect", sealed).decode()
    assert "DATA" in shown
    assert "revision    7" in shown
    assert "plaintext   7 bytes" in shown
    assert "another key" in shell.refused("open prod/other --key prod.key", given=sealed)
    assert "88 to 380456" in shell.refused("inspect", given=b"KVE")
    shell.refused("inspect", status=2, given=b"{}x")


@pytest.mark.slow
def test_requests_for_grpcurl_are_whole(shell: Shell) -> None:
    shell.ok("generate-key prod/", out="prod.key")
    shell.ok("generate-key prod/", out="new.key")
    key, new = (DataKey.load(shell.directory / name) for name in ("prod.key", "new.key"))
    create = json.loads(shell.ok(f"seal {NAME} --key prod.key --revision 1 --json", b"x"))
    assert set(create) == {"key_id", "wrapped_key", "envelope"}
    assert envelope.open(key.secret(), "default", NAME, base64.b64decode(create["envelope"])) == b"x"
    delete = json.loads(shell.ok(f"seal {NAME} --key prod.key --revision 2 --tombstone --json"))
    assert envelope.parse(base64.b64decode(delete["envelope"])) == (envelope.Kind.TOMBSTONE, 2)
    rotate = json.loads(shell.ok(f"seal {NAME} --key prod.key --new-key new.key --revision 2 --json", b"y"))
    assert set(rotate) == {"key_id", "wrapped_key", "authorization", "new_wrapped_key", "envelope"}
    assert envelope.open(new.secret(), "default", NAME, base64.b64decode(rotate["envelope"])) == b"y"


def old_record(plaintext: bytes, secret: bytes) -> bytes:
    """As the service that this one replaces wrote it."""
    padder = PKCS7(128).padder()
    encryptor = Cipher(algorithms.AES256(secret), modes.ECB()).encryptor()
    data = encryptor.update(padder.update(plaintext) + padder.finalize())
    encoded = {"data": base64.b64encode(data).decode(), "secret": base64.b64encode(secret).decode()}
    return json.dumps(encoded).encode()


def test_an_old_record_is_taken_over_under_a_fresh_key(shell: Shell, name: str) -> None:
    record = old_record(b"from long ago", os.urandom(32))
    shell.ok(f"import-legacy {name} --key fresh.key", record)
    assert (shell.directory / "fresh.key").stat().st_mode & 0o777 == 0o600
    assert DataKey.load(shell.directory / "fresh.key").scope == name
    assert shell.ok(f"read {name} --key fresh.key") == b"from long ago"


def test_a_failed_import_is_finished_with_the_key_it_saved(shell: Shell, name: str) -> None:
    shell.ok(f"generate-key {name}", out="fresh.key")
    shell.ok(f"import-legacy {name} --key fresh.key", old_record(b"x", bytes(32)))
    assert shell.ok(f"read {name} --key fresh.key") == b"x"


@pytest.mark.parametrize("record", [b"", b"{}", b'{"data": "", "secret": ""}', b'{"data": "AAAA", "secret": "AAAA"}'])
def test_an_invalid_legacy_record_is_refused_and_no_key_is_made(shell: Shell, record: bytes) -> None:
    shell.refused("import-legacy prod/x --key fresh.key", status=2, given=record)
    assert not (shell.directory / "fresh.key").exists()


def test_a_wrong_old_secret_is_refused(shell: Shell) -> None:
    good = json.loads(old_record(b"from long ago", bytes(32)))
    good["secret"] = base64.b64encode(bytes([1]) * 32).decode()
    assert "does not open" in shell.refused(
        "import-legacy prod/x --key fresh.key", status=2, given=json.dumps(good).encode()
    )
