"""`audit verify` and `audit public-key` as an operator uses them, mounted as the server's command mounts them."""

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cyclopts import App, CycloptsError

from keyvault_server.audit.key import AuditKey
from keyvault_server.audit.trail import AuditOptions, open_audit
from keyvault_server.audit.worker_logs import log_of
from keyvault_server.backends.embedded.sqlite import open_store
from keyvault_server.core.errors import OperatorError
from keyvault_server.core.ports import RecordStore
from keyvault_server.core.records import Record, vacancy
from keyvault_server.operations.audit_cli import audit_app
from tests.support.trails import CALL, Trail, note, some_change


@dataclass
class Settings:
    audit_file: Path | None = None
    audit_key: Path | None = None
    workers: int = 1


@dataclass
class Ran:
    """How a command ended, and what it said."""

    status: int
    said: str
    refusal: str


class Command:
    """The group under a root command that treats refusals and bad usage as the server's does."""

    def __init__(self, folder: Path, output: pytest.CaptureFixture[str]) -> None:
        self.settings = Settings()
        self.folder = folder
        self._output = output
        self._app = App(name="keyvault-server")
        self._app.command(audit_app(lambda: self.settings, self._open_records))

    @contextlib.asynccontextmanager
    async def _open_records(self) -> AsyncIterator[RecordStore]:
        async with open_store(self.folder / "records.sqlite3") as records:
            yield records

    def __call__(self, *arguments: str | Path) -> Ran:
        status, refusal = 0, ""
        try:
            self._app(
                ["audit", *map(str, arguments)], exit_on_error=False, print_error=False, result_action="return_value"
            )
        except CycloptsError as error:
            status, refusal = 2, str(error)
        except OperatorError as error:
            status, refusal = 1, str(error)
        assert "\n" not in refusal
        return Ran(status, self._output.readouterr().out, refusal)


@pytest.fixture
def command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(tmp_path, capsys)


@pytest.fixture
async def trail(tmp_path: Path) -> Trail:
    """A log of one record, which is in the store as it says."""
    trail = Trail(tmp_path)
    change, record = some_change()
    async with trail.open() as audit, open_store(tmp_path / "records.sqlite3") as records:
        intent = await audit.intent(CALL, change, expected=None)
        await records.put_if(CALL.tenant, CALL.key_id, record, None)
        await audit.outcome(CALL, "OK", change=change, intent=intent)
    return trail


def change_store(folder: Path, record: Record) -> None:
    """Past the vault."""

    async def change() -> None:
        async with open_store(folder / "records.sqlite3") as records:
            stored = await records.get_head(CALL.tenant, CALL.key_id)
            assert stored is not None
            await records.put_if(CALL.tenant, CALL.key_id, record, stored.head)

    asyncio.run(change())


WHOLE = "whole: 5 lines, 2 checkpoints; starts: 1, after a crash: 0\n"
OWN = "compared only with the checkpoints next to the log: someone who can truncate one can truncate both\n"


def test_a_whole_log_is_exit_0(command: Command, trail: Trail) -> None:
    assert command("verify", trail.path, "--key", trail.key_path) == Ran(0, WHOLE + OWN, "")


def test_the_settings_name_log_and_key(command: Command, trail: Trail) -> None:
    command.settings = Settings(trail.path, trail.key_path)
    assert command("verify") == Ran(0, WHOLE + OWN, "")
    assert command("public-key") == Ran(0, trail.key.pem, "")


async def write_logs(file: Path, key: Path, *workers: int) -> None:
    for log in (file, *(log_of(file, worker) for worker in workers)):
        async with open_audit(AuditOptions(log, key)) as audit:
            await note(audit, 1)


def test_the_settings_of_workers_name_all_their_logs(command: Command, tmp_path: Path) -> None:
    """FILE itself too, and the logs of workers that are no more."""
    file = tmp_path / "audit.jsonl"
    asyncio.run(write_logs(file, tmp_path / "audit.jsonl.key", 1, 2, 3))
    command.settings = Settings(file, workers=2)
    assert "starts: 4," in command("verify").said
    assert "starts: 2," in command("verify", log_of(file, 1), log_of(file, 2)).said, "the key is found"
    lines = log_of(file, 3).read_text()
    log_of(file, 3).write_text(lines.replace("r0", "r1"))
    assert "audit-3.jsonl" in command("verify").refusal
    command.settings = Settings(file, workers=1)
    assert "starts: 1," in command("verify").said


def test_a_bad_line_is_exit_1_and_named(command: Command, trail: Trail) -> None:
    trail.path.write_bytes(trail.path.read_bytes().replace(b'"OK"', b'"NO"'))
    ran = command("verify", trail.path, "--key", trail.key_path)
    assert (ran.status, ran.said) == (1, "")
    assert ran.refusal.startswith(f"{trail.path} line 4: its MAC does not match")


def test_a_log_that_is_gone_is_exit_1_and_named(command: Command, trail: Trail) -> None:
    trail.path.unlink()
    ran = command("verify", trail.path, "--key", trail.key_path)
    assert ran == Ran(1, "", f"{trail.path}: cannot be read: No such file or directory")


async def test_shipped_checkpoints_replace_the_logs_own(command: Command, trail: Trail) -> None:
    """Those next to the log."""
    shipped = trail.folder / "shipped"
    shutil.copy(trail.checkpoints, shipped)
    trail.checkpoints.unlink()
    named = ("verify", trail.path, "--key", trail.key_path, "--checkpoints", shipped)
    assert command(*named) == Ran(0, WHOLE, "")
    shipped.write_bytes(shipped.read_bytes().splitlines(True)[0])
    assert command(*named).said == WHOLE + "not shipped: 1 checkpoints at the end\n"
    shipped.write_bytes(b"")
    assert command(*named).status == 1


async def test_the_public_key_verifies_and_says_what_it_cannot(command: Command, trail: Trail) -> None:
    public = trail.folder / "public.pem"
    public.write_text(command("public-key", "--key", trail.key_path).said)
    crashed = Trail(trail.folder / "crashed")
    async with trail.open() as audit:
        await note(audit, 3)
        shutil.copytree(trail.folder, crashed.folder)
    ran = command("verify", crashed.path, "--key", public)
    assert ran.status == 0
    assert ran.said.endswith("not proved: 3 lines after the last checkpoint, which the public key cannot check\n")
    assert command("verify", crashed.path, "--key", public, "--against-store").status == 2


async def test_the_log_may_begin_where_the_operator_says(command: Command, trail: Trail) -> None:
    async with trail.open(file_bytes=2_000) as audit:
        await note(audit, 1)
    (archive,) = trail.archives()
    seq = trail.lines()[0]["seq"]
    assert command("verify", trail.path, "--key", trail.key_path).said.startswith("whole: 10 lines, 5 checkpoints;")
    archive.unlink()
    named = ("verify", trail.path, "--key", trail.key_path)
    refused = command(*named)
    assert refused.status == 1
    assert refused.refusal.endswith(f"if older files are kept elsewhere, pass --since {seq}")
    assert command(*named, "--since", str(seq)).said.startswith("whole: 5 lines, 3 checkpoints;")
    assert command(*named, "--since", str(seq), "--against-store").status == 2


async def test_the_key_of_older_files_is_that_of_the_log(command: Command, tmp_path: Path) -> None:
    trail = Trail(tmp_path)
    AuditKey.create(Path(f"{trail.path}.key"))
    trail.key_path.symlink_to(f"{trail.path}.key")
    async with trail.open(file_bytes=1_000) as audit:
        await note(audit, 1)
    assert command("verify", *trail.archives(), trail.path).status == 0


def test_a_store_that_is_as_the_log_has_it_is_exit_0(command: Command, trail: Trail) -> None:
    ran = command("verify", trail.path, "--key", trail.key_path, "--against-store")
    assert ran == Ran(0, WHOLE + OWN + "store: 1 records match the logs\n", "")


def test_a_store_that_is_not_is_exit_1_and_each_record_is_named(command: Command, trail: Trail) -> None:
    change_store(trail.folder, some_change()[1])
    ran = command("verify", trail.path, "--key", trail.key_path, "--against-store")
    assert ran.status == 1
    assert "wrong: acme prod/db: another envelope is stored for revision 1" in ran.said
    assert ran.refusal.startswith("1 findings in the store, the first: acme prod/db: another envelope")


def test_a_vacancy_is_reported(command: Command, trail: Trail) -> None:
    change_store(trail.folder, vacancy(1, 1))
    ran = command("verify", trail.path, "--key", trail.key_path, "--against-store")
    assert ran.status == 0
    assert "vacant: acme prod/db (revision 1): compare with the purges that you ordered\n" in ran.said


@pytest.mark.parametrize("arguments", [("verify",), ("public-key",), ("verify", "x", "--nonsense"), ("nonsense",)])
def test_bad_usage_is_exit_2(command: Command, arguments: tuple[str, ...]) -> None:
    assert command(*arguments).status == 2


def test_a_key_that_is_none_is_refused(command: Command, trail: Trail) -> None:
    assert "cannot read the audit key" in command("public-key", "--key", trail.folder / "none").refusal
    trail.key_path.chmod(0o644)
    assert "others can read" in command("public-key", "--key", trail.key_path).refusal


def test_an_audit_key_of_a_later_version_is_named_as_such(command: Command, trail: Trail) -> None:
    content = trail.key_path.read_text().replace('"version": 1', '"version": 2')
    trail.key_path.write_text(content)
    assert "by a later version of keyvault-server" in command("public-key", "--key", trail.key_path).refusal


def test_the_key_is_looked_for_next_to_the_log(command: Command, tmp_path: Path) -> None:
    log = tmp_path / "x"
    log.touch()
    ran = command("verify", log)
    assert (ran.status, ran.refusal) == (1, f"{log}.key: cannot read the audit key: No such file or directory")


def test_a_mistyped_log_is_named_before_its_key(command: Command, tmp_path: Path) -> None:
    ran = command("verify", tmp_path / "nosuch.jsonl")
    assert (ran.status, ran.refusal) == (1, f"{tmp_path}/nosuch.jsonl: cannot be read: No such file or directory")
