"""Exit codes of `keyvault`: a script tells failures apart without reading the sentence."""

import inspect
from pathlib import Path

import grpc
import pytest

from keyvault_client import errors
from keyvault_client.cli_app import app
from keyvault_client.errors import BadPageToken, InvalidRequest, KeyVaultError
from keyvault_client.exit_codes import HELP, ExitCode, exit_code
from tests.interop.clients import KeyvaultCommand
from tests.support.misbehaving import answers, misbehaving
from tests.support.outcomes import UNKNOWN, Record, run
from tests.support.processes import BIN
from tests.support.servers import Served
from tests.support.shell import Shell

FAILURES = {
    KeyVaultError("x"): 1,
    InvalidRequest("x"): 2,
    BadPageToken("x"): 2,
    errors.KeyNotFound("x"): 2,
    errors.NotFound("x"): 3,
    errors.RevisionNotFound("x", current_revision=1): 3,
    errors.WrongRevision("x", current_revision=1): 4,
    errors.AlreadyExists("x", current_revision=1): 4,
    errors.Conflict("x", current_revision=1): 4,
    errors.NotAuthorized("x"): 5,
    errors.Denied("x"): 5,
    errors.Busy("x"): 6,
    errors.MasterKeyUnusable("x"): 1,
    errors.Unavailable("x"): 6,
    errors.OutcomeUnknown("x"): 7,
    errors.RecordDamaged("x"): 1,
    errors.RolledBack("x", revision=1, seen=2): 1,
    errors.ServerFailure("x"): 1,
    errors.WrongEventLoop("x"): 1,
    errors.WrongProcess("x"): 1,
    errors.NotCached("x"): 1,
    errors.NotRefreshed("x", failures={}): 1,
}


def test_every_exception_has_its_exit_code() -> None:
    kinds = {kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, KeyVaultError)}
    assert {type(failure) for failure in FAILURES} == kinds
    assert {failure: exit_code(failure) for failure in FAILURES} == FAILURES


def test_what_only_the_server_refused_is_not_bad_usage() -> None:
    assert exit_code(InvalidRequest("x", reason="INVALID_ARGUMENT")) == 1
    assert exit_code(BadPageToken("x", reason="BAD_PAGE_TOKEN")) == 1


def test_other_failures_have_their_exit_codes() -> None:
    assert exit_code(OSError("x")) == 1
    assert exit_code(KeyboardInterrupt()) == 130


def test_help_has_every_exit_code() -> None:
    assert HELP in app.help
    for code in (one for one in ExitCode if one < ExitCode.NOT_STARTED):
        assert f"{code.value} {code.name.lower().replace('_', ' ')}" in HELP


@pytest.mark.process
@pytest.mark.slow
def test_each_exit_code_comes_from_a_real_server(shell: Shell) -> None:
    shell.ok("generate-key prod/ --save prod.key")
    shell.ok("generate-key prod/ --save other.key")
    shell.ok("create prod/codes --key prod.key", b"1")
    shell.refused("read prod/codes --key other.key", status=1)
    shell.refused("read prod/codes --key prod.key --revision zero", status=2)
    shell.refused("read prod/codes-absent --key prod.key", status=3)
    shell.refused("read prod/codes --key prod.key --revision 7", status=3)
    shell.refused("create prod/codes --key prod.key", status=4, given=b"2")
    shell.refused("unwrap-key --key prod.key", status=5)
    shell.refused("whoami --address 127.0.0.1:1 --timeout 0.5", status=6)


@pytest.mark.process
async def test_a_change_without_an_answer_is_exit_7(server: Served, tmp_path: Path) -> None:
    record = await Record.make(server, "prod/codes-unknown", tmp_path)
    lost = {"Create": [answers(grpc.StatusCode.UNIMPLEMENTED, commit=True)]}
    async with misbehaving(server, lost) as peer:
        client = KeyvaultCommand((BIN / "keyvault",)).at(peer.address)
        assert (await run(client, "create", record))[0] == UNKNOWN
    assert (client.unknown, await record.revision()) == (7, 1)
