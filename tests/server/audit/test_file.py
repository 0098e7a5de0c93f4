"""The file below the audit log: which errors of a write stop it, and who keeps it open."""

import fcntl
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from keyvault_server.audit.file import AppendFile, UnusableAuditFile
from keyvault_server.audit.log import open_log
from keyvault_server.core.errors import AuditUnavailable
from keyvault_server.disk.permissions import UnsafeFile
from tests.support.trails import small_files


@pytest.fixture
def memory() -> Iterator[int]:
    """Descriptor of a file in memory that can be sealed: then each write of it fails with EPERM."""
    descriptor = os.memfd_create("audit", os.MFD_ALLOW_SEALING)
    os.fchmod(descriptor, 0o600)
    yield descriptor
    os.close(descriptor)


def test_a_write_that_fails_stops_the_file_for_good(memory: int, caplog: pytest.LogCaptureFixture) -> None:
    """Only a full disk may be tried again: after any other error nobody knows what is in the file."""
    file = AppendFile(Path(f"/proc/self/fd/{memory}"), os.fdatasync)
    file.append(b"one\n")
    fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    for _ in range(2):
        with pytest.raises(AuditUnavailable):
            file.append(b"two\n")
    with pytest.raises(AuditUnavailable):
        file.check_unchanged()
    assert not file.full
    (record,) = caplog.records
    assert (record.levelno, record.message) == (logging.CRITICAL, "the audit log stopped")
    assert (record.__dict__["cause"], record.__dict__["code"]) == ("write failed", "EPERM")
    file.close()


def test_a_partial_line_that_stays_stops_the_file_for_good(memory: int, caplog: pytest.LogCaptureFixture) -> None:
    """A full disk may be tried again, but not behind half a line."""

    file = AppendFile(Path(f"/proc/self/fd/{memory}"), os.fdatasync)
    fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    with small_files(size=5):
        for _ in range(2):
            with pytest.raises(AuditUnavailable):
                file.append(b"half a line\n")
    assert os.fstat(memory).st_size == 5
    with pytest.raises(AuditUnavailable):
        file.check_unchanged()
    assert not file.full
    (record,) = caplog.records
    assert (record.__dict__["cause"], record.__dict__["code"]) == ("a partial line cannot be removed", "EPERM")
    file.close()


def test_a_file_that_others_may_write_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    path.touch(0o666)
    path.chmod(0o666)
    with pytest.raises(UnsafeFile, match=r"audit\.jsonl"):
        AppendFile(path, os.fdatasync)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_another_user_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    path.touch(0o600)
    os.chown(path, 65534, -1)
    with pytest.raises(UnsafeFile, match=r"audit\.jsonl"):
        AppendFile(path, os.fdatasync)


def test_an_abandoned_log_stays_locked_and_others_do_not(tmp_path: Path) -> None:
    """A thread that hangs may still write: nobody else may write to the same files."""
    path, key = tmp_path / "audit.jsonl", tmp_path / "audit.key"
    with open_log(path, key) as log:
        log.end()
    with open_log(path, key) as log:
        log.abandon()
    with pytest.raises(UnusableAuditFile, match="in use"), open_log(path, key):
        pass
