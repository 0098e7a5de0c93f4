"""Names of new directories are durable before anything in them is relied on; nothing but a file is replaced."""

import os
from pathlib import Path

import pytest

from keyvault_server.backends.embedded.data_directory import DataDirectory
from keyvault_server.disk.files import make_directory, replace_durably


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths that were synced, in order."""
    paths: list[str] = []
    fsync = os.fsync

    def recorded(descriptor: int) -> None:
        paths.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        fsync(descriptor)

    monkeypatch.setattr("os.fsync", recorded)
    return paths


def test_each_new_directory_is_synced_in_its_parent(tmp_path: Path, synced: list[str]) -> None:
    make_directory(tmp_path / "a" / "b" / "c")
    assert synced == [str(tmp_path), str(tmp_path / "a"), str(tmp_path / "a" / "b")]
    assert (tmp_path / "a" / "b" / "c").stat().st_mode & 0o777 == 0o700


def test_a_directory_that_exists_is_left_as_it_is(tmp_path: Path, synced: list[str]) -> None:
    tmp_path.chmod(0o755)
    make_directory(tmp_path)
    assert synced == []
    assert tmp_path.stat().st_mode & 0o777 == 0o755


def test_a_new_data_directory_is_durable_before_its_lock(tmp_path: Path, synced: list[str]) -> None:
    with DataDirectory(tmp_path / "vault" / "data").locked():
        assert synced == [str(tmp_path), str(tmp_path / "vault")]


def test_what_is_not_a_file_is_not_replaced(tmp_path: Path) -> None:
    """Root that saved settings to a device had a file in its place."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for name in ("pipe", "link"):
        with pytest.raises(FileExistsError, match="exists and is not a file"):
            replace_durably(tmp_path / name, b"x")
    assert (tmp_path / "pipe").is_fifo()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "pipe"]
