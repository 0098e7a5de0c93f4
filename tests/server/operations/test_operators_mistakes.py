"""What an operator gets wrong: one line that says what to do, exit 2 for bad usage, 1 for a refusal, no traceback."""

import os
import shlex
import socket
import subprocess
from functools import partial
from pathlib import Path

import pytest

from keyvault_api.v1 import keyvault_pb2 as pb
from keyvault_server.access.patterns import check_identity
from keyvault_server.access.policy import BadPolicy
from keyvault_server.backends.embedded.data_directory import DataDirectory, UnusableData
from keyvault_server.backends.embedded.keyring import Keyring
from keyvault_server.backends.embedded.sqlite import open_store
from keyvault_server.disk.permissions import UnsafeFile
from keyvault_server.disk.watched import Unreadable
from keyvault_server.operations.cli import app
from keyvault_server.operations.composition import read_policy
from keyvault_server.operations.listening import CannotListen, refuse_taken
from tests.support.forked import operate, run_line
from tests.support.ownership import give_to_foreign_group
from tests.support.processes import STARTED, server_process
from tests.support.refusals import failure_of
from tests.support.refusals import refusal as refusal_of
from tests.support.requests import mint
from tests.support.servers import embedded

POLICY = """[[caller]]
identity = "dns:a.example"
tenant = "a"
[[caller.allow]]
methods = ["Read"]
names = ["x/*"]
"""


def in_shell(line: str, folder: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """A line for bash, where keyvault-server is found."""
    given = os.environ | {"KEYVAULT_LISTEN": "127.0.0.1:0"} | environment
    done = run_line(line, STARTED, folder, given)
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def operated(line: str, folder: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run a line that has nothing for a shell but quotes."""
    program, *words = shlex.split(line)
    assert program == "keyvault-server"
    return operate(words, {"KEYVAULT_LISTEN": "127.0.0.1:0"} | environment, folder)


refusal = partial(refusal_of, after_log=True)
"""The server may have logged before it refused."""


async def test_a_unix_socket_is_not_taken_away_from_another_server(tmp_path: Path) -> None:
    path = f"unix:{tmp_path}/s"
    async with embedded(tmp_path / "data", listen=path):
        with pytest.raises(CannotListen, match="in use"):
            async with embedded(tmp_path / "other", listen=path):
                pass
    (tmp_path / "s").touch()
    with pytest.raises(CannotListen, match="not a socket"):
        refuse_taken(path)
    with pytest.raises(CannotListen, match=r"folder .* does not exist"):
        refuse_taken(f"unix:{tmp_path}/absent/s")


async def test_a_socket_that_a_killed_server_left_is_used_again(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(f"{tmp_path}/s")
    async with embedded(tmp_path / "data", listen=f"unix:{tmp_path}/s"):
        pass


def test_a_name_is_refused_if_one_of_its_addresses_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(CannotListen, match="in use"):
        refuse_taken(f"localhost:{other.getsockname()[1]}")
    with pytest.raises(CannotListen):
        refuse_taken("192.0.2.1:0")
    refuse_taken("localhost:0")


@pytest.mark.process
@pytest.mark.slow
def test_a_taken_port_is_one_line_and_nothing_is_made(tmp_path: Path) -> None:
    with server_process(tmp_path / "data") as server:
        done = operated(f"keyvault-server serve --data other --listen {server.address}", tmp_path)
    assert "in use" in refusal(done, 1)
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777])
def test_a_folder_that_others_can_write_is_refused(tmp_path: Path, mode: int) -> None:
    give_to_foreign_group(tmp_path)
    tmp_path.chmod(mode)
    with pytest.raises(UnsafeFile, match="others can write"), DataDirectory(tmp_path).locked():
        pass


async def test_what_cannot_be_read_or_written_is_refused_by_its_name(tmp_path: Path) -> None:
    for name in ("keyring.json", "records.sqlite3"):
        (tmp_path / name).mkdir(mode=0o700)
    with pytest.raises(Unreadable, match=r"keyring\.json: Is a directory"):
        Keyring.load(tmp_path / "keyring.json")
    with pytest.raises(UnusableData, match=r"records\.sqlite3 cannot be opened"):
        async with open_store(tmp_path / "records.sqlite3"):
            pass
    with pytest.raises(UnusableData, match=r"absent/keyring\.json: cannot write"):
        Keyring.create(tmp_path / "absent" / "keyring.json")


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.parametrize(
    "command", ["purge prod/a --yes --insecure-no-audit", "rotate-master-key", "audit verify --against-store log"]
)
def test_a_mistyped_directory_is_not_made(tmp_path: Path, command: str) -> None:
    done = operated(f"keyvault-server {command}", tmp_path, KEYVAULT_DATA="mistyped", KEYVAULT_AUDIT_KEY="absent")
    refusal(done, 1)
    assert not (tmp_path / "mistyped").exists()


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.parametrize("revision", ["0", "-1", "9223372036854775807"])
def test_a_last_revision_that_is_none_is_refused(tmp_path: Path, revision: str) -> None:
    line = f"keyvault-server purge prod/a --yes --data x --last-revision {revision}"
    assert "last-revision" in refusal(operated(line, tmp_path), 2)


@pytest.mark.process
@pytest.mark.slow
def test_a_bad_question_to_a_policy_is_bad_usage_not_a_denial(tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text(POLICY)
    ask = "keyvault-server policy test --policy policy.toml --as dns:a.example"
    assert "did you mean Read?" in refusal(operated(f"{ask} Raed x/a", tmp_path), 2)
    assert "A-Za-z0-9" in refusal(operated(f"{ask} Read 'x/a b'", tmp_path), 2)
    line = refusal(operated("keyvault-server policy test --policy policy.toml --as alice Read x/a", tmp_path), 2)
    assert "invalid identity 'alice': an identity is anonymous or begins with one of spiffe://" in line


@pytest.mark.process
@pytest.mark.slow
def test_what_check_config_prints_is_what_a_shell_takes(tmp_path: Path) -> None:
    given = {"KEYVAULT_UNWRAP_SCOPES": '["prod/a", "prod/b"]', "KEYVAULT_REFLECTION": "false"}
    first = operated("keyvault-server check-config", tmp_path, **given)
    assert "# KEYVAULT_POLICY is unset" in first.stdout.splitlines()
    (tmp_path / "printed").write_text(first.stdout)
    again = in_shell("set -a; . ./printed; keyvault-server check-config", tmp_path)
    assert (again.returncode, again.stdout) == (0, first.stdout), again.stderr
    assert f"KEYVAULT_UNWRAP_SCOPES={shlex.quote(given['KEYVAULT_UNWRAP_SCOPES'])}" in first.stdout.splitlines()


@pytest.mark.process
@pytest.mark.slow
def test_check_config_reads_what_the_settings_name(tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text("[[caller]")
    assert "policy.toml, line 1" in refusal(
        operated("keyvault-server check-config", tmp_path, KEYVAULT_POLICY="policy.toml"), 1
    )


@pytest.mark.process
@pytest.mark.slow
def test_an_address_for_a_healthcheck_is_checked(tmp_path: Path) -> None:
    """gRPC wrote lines of its own about a path that is too long."""
    for address in ("x", "a..b:9", f"unix:/{'a' * 107}", "''"):
        line = refusal_of(operated(f"keyvault-server healthcheck --address {address}", tmp_path), 2)
        assert line.startswith("keyvault-server: --address ")


@pytest.mark.process
@pytest.mark.slow
def test_a_misspelt_setting_gets_a_suggestion(tmp_path: Path) -> None:
    assert "KEYVAULT_LISTEN?" in refusal(operated("keyvault-server serve", tmp_path, KEYVAULT_LISTNE="x"), 2)
    assert "docs/settings.md" in refusal(operated("keyvault-server serve", tmp_path, KEYVAULT_XYZ="x"), 2)


@pytest.mark.process
@pytest.mark.slow
def test_an_init_without_credentials_says_so(tmp_path: Path) -> None:
    absent = {"HOME": str(tmp_path), "AWS_EC2_METADATA_DISABLED": "true", "KEYVAULT_AWS_REGION": "eu-central-1"}
    line = "unset ${!AWS_*}; export AWS_EC2_METADATA_DISABLED=true; keyvault-server init --backend aws"
    assert "AWS_PROFILE" in refusal(in_shell(line, tmp_path, **absent), 1)


@pytest.mark.process
@pytest.mark.slow
def test_what_cannot_be_printed_is_one_line(tmp_path: Path) -> None:
    line = "keyvault-server check-config > /dev/full"
    assert "No space left" in refusal(in_shell(line, tmp_path), 1)
    line = "keyvault-server serve --data data --listen 127.0.0.1:0 > /dev/full"
    assert "No space left" in refusal(in_shell(line, tmp_path), 1)


@pytest.mark.process
@pytest.mark.slow
def test_a_refusal_without_stderr_is_not_printed_elsewhere(tmp_path: Path) -> None:
    done = in_shell("keyvault-server rotate-master-key --data absent 2>&-", tmp_path)
    assert (done.returncode, done.stdout) == (1, "")


@pytest.mark.process
@pytest.mark.slow
def test_a_folder_in_place_of_an_audit_log_is_refused(tmp_path: Path) -> None:
    assert ".: cannot be read: Is a directory" in refusal(operated("keyvault-server audit verify .", tmp_path), 1)


def test_a_policy_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    """Some editors write one; tomllib says "Invalid statement (at line 1, column 1)" of it."""
    path = tmp_path / "policy.toml"
    path.write_text(POLICY, encoding="utf-8-sig")
    assert read_policy(path).decide("dns:a.example", "Read", "x/a").line == 4
    path.write_text(POLICY, encoding="utf-16")
    with pytest.raises(BadPolicy, match=r"policy\.toml is not UTF-8: save it as UTF-8"):
        read_policy(path)


async def test_an_unwrap_that_is_off_is_not_blamed_on_the_policy(tmp_path: Path) -> None:
    async with embedded(tmp_path / "data") as server:
        key = await mint(server.stub, "prod/a")
        failure = await failure_of(server.stub.UnwrapKey(pb.UnwrapKeyRequest(wrapped_key=key.wrapped)))
    assert (failure.status, failure.reason) == ("PERMISSION_DENIED", "POLICY_DENIED")
    assert "UnwrapKey is off for this scope" in failure.message


@pytest.mark.parametrize("identity", ["alice", "", "spiffe://a", "dns:", "jwt:a b", "jwt:é", "jwt:" + "a" * 3000])
def test_an_identity_of_no_caller_is_refused(identity: str) -> None:
    with pytest.raises(ValueError, match=r"identity|SPIFFE|DNS|subject"):
        check_identity(identity)


@pytest.mark.medium
def test_every_command_and_parameter_is_explained() -> None:
    groups = [app, app["policy"], app["audit"]]
    commands = [group[name] for group in groups for name in group if not name.startswith("-")]
    assert len(commands) == 14
    for command in commands:
        assert command.help, command.name
        for argument in () if command in groups else command.assemble_argument_collection(parse_docstring=True):
            assert argument.parameter.help or argument.children, (command.name, argument.name)


@pytest.mark.process
@pytest.mark.slow
def test_roots_for_aws_that_others_may_write_are_refused(tmp_path: Path) -> None:
    (tmp_path / "roots.pem").touch()
    (tmp_path / "roots.pem").chmod(0o666)
    done = operated("keyvault-server init --backend aws", tmp_path, KEYVAULT_AWS_CA_BUNDLE="roots.pem")
    assert "roots.pem" in (line := refusal(done, 1))
    assert "others can write" in line


@pytest.mark.process
def test_an_init_that_fails_saves_nothing(tmp_path: Path) -> None:
    """A shell that reads an empty file would go on with the embedded backend."""
    line = (
        "unset ${!AWS_*}; export AWS_EC2_METADATA_DISABLED=true; keyvault-server init --backend aws --save keyvault.env"
    )
    done = in_shell(line, tmp_path, KEYVAULT_AWS_REGION="eu-central-1")
    assert "credentials" in refusal(done, 1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.process
def test_an_init_saves_settings_that_a_shell_reads(tmp_path: Path) -> None:
    done = operated("keyvault-server init --data 'my data' --save keyvault.env", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "back up" in done.stdout
    assert (tmp_path / "keyvault.env").stat().st_mode & 0o777 == 0o600
    shown = in_shell(". ./keyvault.env && keyvault-server check-config", tmp_path)
    assert f"KEYVAULT_DATA='{tmp_path}/my data'" in shown.stdout


@pytest.mark.process
@pytest.mark.slow
def test_a_place_that_cannot_be_written_is_named_as_typed(tmp_path: Path) -> None:
    line = refusal(operated("keyvault-server init --data data --save absent/keyvault.env", tmp_path), 1)
    assert "--save absent/keyvault.env: cannot write: No such file or directory" in line
    (tmp_path / "old").mkdir()
    assert "old exists: name a new file" in refusal(operated("keyvault-server backup old --data data", tmp_path), 1)
