"""One rule for who may read or write a file: we, root and a group of ours."""

import os
from pathlib import Path

import pytest

from keyvault_server.disk.permissions import UnsafeFile, refuse_unsafe
from tests.support.ownership import FOREIGN_GROUP, give_to_foreign_group


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "file"
    made.write_bytes(b"")
    return made


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o660, 0o400])
def test_a_secret_may_belong_to_a_group_of_ours(path: Path, mode: int) -> None:
    """The kubelet leaves the files of a volume with fsGroup so."""
    path.chmod(mode)
    refuse_unsafe(path, secret=True)


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o601, 0o666])
def test_a_secret_that_everybody_can_reach_is_refused(path: Path, mode: int) -> None:
    path.chmod(mode)
    with pytest.raises(UnsafeFile, match=rf"{path} has mode {mode:04o}, so others can read or write it.*chmod go-rwx"):
        refuse_unsafe(path, secret=True)


@pytest.mark.parametrize("mode", [0o640, 0o620, 0o610])
def test_a_secret_that_a_foreign_group_can_reach_is_refused(path: Path, mode: int) -> None:
    give_to_foreign_group(path)
    path.chmod(mode)
    with pytest.raises(UnsafeFile, match=f"has mode {mode:04o}"):
        refuse_unsafe(path, secret=True)


def test_any_group_may_read_a_key_where_that_is_said(path: Path) -> None:
    give_to_foreign_group(path)
    path.chmod(0o640)
    refuse_unsafe(path, secret=True, group_reads=True)
    path.chmod(0o660)
    with pytest.raises(UnsafeFile, match="has mode 0660"):
        refuse_unsafe(path, secret=True, group_reads=True)


@pytest.mark.parametrize("mode", [0o644, 0o664, 0o660, 0o444])
def test_everybody_may_read_what_is_not_a_secret(path: Path, mode: int) -> None:
    path.chmod(mode)
    refuse_unsafe(path)


@pytest.mark.parametrize(("mode", "foreign"), [(0o646, False), (0o602, False), (0o664, True), (0o620, True)])
def test_a_file_that_others_can_write_is_refused(path: Path, mode: int, foreign: bool) -> None:
    if foreign:
        give_to_foreign_group(path)
    path.chmod(mode)
    with pytest.raises(UnsafeFile, match=rf"{path} has mode {mode:04o}, so others can write it.*chmod go-w {path}"):
        refuse_unsafe(path)


def test_a_file_of_another_user_is_refused(path: Path) -> None:
    """Even a server that runs as root refuses it."""
    if os.geteuid() != 0:
        pytest.skip("only root can give a file to another user")
    os.chown(path, FOREIGN_GROUP, -1)
    with pytest.raises(UnsafeFile, match=f"belongs to another user \\(uid {FOREIGN_GROUP}\\)"):
        refuse_unsafe(path)


def test_the_status_of_the_open_file_decides(path: Path) -> None:
    status = path.stat()
    path.chmod(0o666)
    refuse_unsafe(path, status)
