"""docs/backup.md restores what it backed up: its blocks run, and the calls of its DynamoDB part."""

from pathlib import Path

import pytest

from keyvault_client import DataKey, KeyVault
from keyvault_server.backends.aws.clients import open_aws, open_clients
from keyvault_server.backends.aws.options import AwsOptions
from keyvault_server.core.records import Record
from tests.support.engines import options
from tests.support.pages import blocks_of, started, with_commands
from tests.support.processes import server_process
from tests.support.shell import Shell, in_shell

BACKUP, RESTORE, SERVE, READ, *_ = (text for _, text in blocks_of("docs/backup.md"))


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_the_embedded_drill_restores_every_record(tmp_path: Path) -> None:
    """Also those that are in the write-ahead log alone."""
    (tmp_path / "backup").mkdir()
    (tmp_path / "keys").mkdir()
    with server_process(tmp_path / "data") as server:
        shell = Shell(tmp_path, server.address)
        shell.ok("generate-key prod/", out="prod.key")
        key = DataKey.from_json((tmp_path / "prod.key").read_text())
        async with KeyVault(server.address) as vault:
            for number in range(20):
                await vault.create(f"prod/{number}", b"before", key=key)
        shell.ok("create prod/db --key prod.key", b"hunter2")
        shell.environment |= with_commands()
        done = in_shell(shell, BACKUP)
        assert (done.returncode, done.stderr) == (0, b""), done
        assert b"21 records saved" in done.stdout
        assert (tmp_path / "backup" / "records.sqlite3").stat().st_mode & 0o777 == 0o600
        shell.ok("create prod/later --key prod.key", b"after")
    assert in_shell(shell, RESTORE).returncode == 0
    with started(SERVE, tmp_path) as address:
        restored = Shell(tmp_path, address)
        assert restored.ok(READ.removeprefix("keyvault ").strip()) == b"hunter2"
        async with KeyVault(address) as vault:
            for number in range(20):
                assert (await vault.read(f"prod/{number}", key=key)).plaintext == b"before"
        assert "no such record" in restored.refused("read prod/later --key prod.key", status=3)


@pytest.mark.external
@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_a_restored_table_serves_its_records(moto_options: AwsOptions, moto: str) -> None:
    record = Record(bytes(72), bytes(16), 1, 2, b"body")
    async with open_aws(moto_options) as (_, records):
        await records.put_if("acme", "prod/backed-up", record, None)
    async with open_clients(moto_options) as (_, dynamodb):
        made = await dynamodb.call("create_backup", TableName=moto_options.table, BackupName="before-change")
        arn = made["BackupDetails"]["BackupArn"]
        await dynamodb.call("restore_table_from_backup", TargetTableName="restored", BackupArn=arn)
        await dynamodb.call("update_table", TableName="restored", DeletionProtectionEnabled=True)
        recovery = {"PointInTimeRecoveryEnabled": True}
        await dynamodb.call(
            "update_continuous_backups", TableName="restored", PointInTimeRecoverySpecification=recovery
        )
    again = options(moto, moto, master_keys=moto_options.master_keys, table="restored")
    async with open_aws(again) as (_, restored):
        assert await restored.get("acme", "prod/backed-up") == record
