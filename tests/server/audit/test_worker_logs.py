"""The logs of several workers: their names, what an auditor has to verify, and the key that they share."""

from pathlib import Path

import pytest

from keyvault_server.audit.key import AuditKey, UnusableAuditKey, default_key_path
from keyvault_server.audit.worker_logs import existing_logs, key_of, log_of, prepare_key


@pytest.mark.parametrize(
    ("name", "second"),
    [("audit.jsonl", "audit-2.jsonl"), ("audit", "audit-2"), ("a.b.jsonl", "a.b-2.jsonl")],
)
def test_a_worker_has_its_number_in_the_name_of_its_log(name: str, second: str) -> None:
    assert log_of(Path("/var/log", name), 2) == Path("/var/log", second)


def test_logs_of_more_workers_than_there_are_now_are_found(tmp_path: Path) -> None:
    """And no file that is not a log of this FILE."""
    names = ["audit.jsonl", "audit-2.jsonl", "audit-10.jsonl"]
    others = ["audit-2.jsonl.checkpoints", "audit-2.jsonl.000000000001", "audit-02.jsonl", "audit-x.jsonl", "b-1.jsonl"]
    for name in (*names, *others):
        (tmp_path / name).touch()
    assert [log.name for log in existing_logs(tmp_path / "audit.jsonl")] == names
    assert list(existing_logs(tmp_path / "absent" / "audit.jsonl")) == []


def test_the_key_of_a_workers_log_is_next_to_file(tmp_path: Path) -> None:
    file = tmp_path / "audit.jsonl"
    default_key_path(file).touch()
    assert key_of(log_of(file, 3)) == key_of(file) == default_key_path(file)
    default_key_path(log_of(file, 3)).touch()
    assert key_of(log_of(file, 3)) == default_key_path(log_of(file, 3))


def test_the_shared_key_is_made_once_and_never_replaced(tmp_path: Path) -> None:
    file, key = tmp_path / "audit.jsonl", tmp_path / "key"
    prepare_key(file, key)
    made = AuditKey.load(key)
    prepare_key(file, key)
    assert AuditKey.load(key).pem == made.pem


def test_no_key_is_made_for_a_worker_that_lost_its_own(tmp_path: Path) -> None:
    file, key = tmp_path / "audit.jsonl", tmp_path / "key"
    log_of(file, 2).write_text("line\n")
    with pytest.raises(UnusableAuditKey, match=r"key is missing, but .*audit-2\.jsonl exists"):
        prepare_key(file, key)
    assert not key.exists()
