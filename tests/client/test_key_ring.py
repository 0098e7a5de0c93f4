"""`KeyRing`: key files in a folder, which one a name gets, and what is refused."""

import logging
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvault_api.names import covers
from keyvault_client import DataKey, InvalidRequest, KeyNotFound, KeyRing
from keyvault_client.key_folder import NEW_SUFFIX, read_folder, save_key
from keyvault_client.key_ring import _scopes_over
from tests.support.clock import Clock

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")


def key_for(scope: str, number: int = 1, tenant: str = "default") -> DataKey:
    return DataKey(tenant, scope, b"wrapped%d" % number, bytes([number]) * 32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "keys").mkdir(mode=0o700)
    return tmp_path / "keys"


def ring_of(folder: Path, *keys: DataKey) -> KeyRing:
    for key in keys:
        save_key(folder, key)
    return KeyRing(folder)


def test_the_longest_scope_that_covers_a_name_wins(folder: Path) -> None:
    keys = [key_for(scope, number) for number, scope in enumerate(["prod/", "prod/db/", "prod/db/main", "dev"])]
    ring = ring_of(folder, *keys)
    assert [ring[name] for name in ("prod/x", "prod/db/x", "prod/db/main", "dev")] == keys
    assert ring["prod/db/main/x"] == keys[1]
    assert ring["prod/"] == keys[0], "a scope is looked for like a name"


@pytest.mark.parametrize("name", ["prod", "dev/x", "devx", "/", "/prod/x"])
def test_a_name_without_a_key_is_named_with_its_scopes(folder: Path, name: str) -> None:
    ring = ring_of(folder, key_for("prod/"), key_for("dev"))
    with pytest.raises(KeyNotFound) as error:
        ring.find(name)
    assert f"no key for {name} in {folder}" in str(error.value)
    assert all(scope in str(error.value) for scope in _scopes_over(name))


def test_an_invalid_name_is_refused(folder: Path) -> None:
    with pytest.raises(InvalidRequest, match="invalid name 'a b'"):
        KeyRing(folder).find("a b")


@given(st.text("ab/", min_size=1, max_size=8), st.text("ab/", min_size=1, max_size=8))
def test_the_scopes_of_a_name_are_those_that_cover_it(scope: str, name: str) -> None:
    over = list(_scopes_over(name))
    assert (scope in over) is covers(scope, name)
    assert over == sorted(set(over), key=len, reverse=True)


def test_a_ring_lists_scopes_and_shows_no_secret(folder: Path) -> None:
    key = key_for("prod/")
    ring = ring_of(folder, key, key_for("a", 2).without_plaintext())
    assert list(ring) == ["a", "prod/"]
    assert len(ring) == 2
    assert "prod/x" in ring
    assert "prod/" in ring
    assert "b" not in ring
    assert 1 not in ring
    assert [one.to_json() for one in ring.entries()] == [
        {"scope": "a", "tenant": "default", "file": f"{folder}/a.key", "plaintext": False, "new": False},
        {"scope": "prod/", "tenant": "default", "file": f"{folder}/prod%2F.key", "plaintext": True, "new": False},
    ]
    shown = repr((ring, ring.entries()))
    assert "wrapped1" not in shown
    assert "\\x01" not in shown


def test_any_file_whose_name_ends_in_key_counts(folder: Path) -> None:
    """Its scope counts, not its name. What begins with a dot, a folder and other files do not."""
    key_for("prod/").save(folder / "whatever.key")
    (folder / "sub.key").mkdir()
    for name in (".hidden.key", "notes.txt", "prod.key.old"):
        (folder / name).write_text("not a key")
    (folder / "..data").mkdir()
    assert list(KeyRing(folder)) == ["prod/"]


def test_keys_mounted_by_symbolic_links_count(folder: Path) -> None:
    """As Kubernetes has them: ..data leads to a folder of the current version."""
    (folder / "..1").mkdir()
    key_for("prod/").save(folder / "..1" / "prod.key")
    (folder / "..data").symlink_to("..1")
    (folder / "prod.key").symlink_to("..data/prod.key")
    assert KeyRing(folder)["prod/x"] == key_for("prod/")


def spoil(content: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(content)


def replaced(make: Callable[[Path], None]) -> Callable[[Path], object]:
    def replace(path: Path) -> None:
        path.unlink()
        make(path)

    return replace


@pytest.mark.parametrize(
    ("spoiling", "message"),
    [
        (spoil("not a key"), "not a data key"),
        (spoil(""), "not a data key"),
        (spoil("x" * 100_000), "not a data key"),
        (lambda path: path.chmod(0o644), "has mode 0644"),
        (replaced(lambda path: path.symlink_to("nowhere")), "leads to no file"),
        (replaced(os.mkfifo), "not a regular file"),
    ],
    ids=["text", "empty", "large", "mode", "link", "pipe"],
)
def test_a_file_that_cannot_be_used_is_named(folder: Path, spoiling: Callable[[Path], object], message: str) -> None:
    """It is not skipped: its key may be the one that wins."""
    key_for("prod/").save(folder / "good.key")
    key_for("prod/db").save(folder / "bad.key")
    spoiling(folder / "bad.key")
    with pytest.raises(InvalidRequest, match=rf"bad\.key.*{message}"):
        KeyRing(folder)


@pytest.mark.parametrize("mode", [0o702, 0o777, 0o1777])
def test_a_folder_that_others_may_write_is_refused(folder: Path, mode: int) -> None:
    folder.chmod(mode)
    with pytest.raises(InvalidRequest, match=rf"keys has mode {mode:04o}, so others can write it.*chmod go-w"):
        KeyRing(folder)


@needs_root
def test_the_folder_of_another_user_is_refused(folder: Path) -> None:
    os.chown(folder, 12345, -1)
    with pytest.raises(InvalidRequest, match=r"belongs to another user \(uid 12345\)"):
        KeyRing(folder)


@needs_root
def test_a_folder_and_files_of_a_group_of_ours_are_used(folder: Path) -> None:
    """As Kubernetes has a volume with fsGroup."""
    key_for("prod/").save(folder / "prod.key")
    for path in (folder, folder / "prod.key"):
        os.chown(path, 0, os.getegid())
    folder.chmod(0o2770)
    (folder / "prod.key").chmod(0o440)
    assert "prod/" in KeyRing(folder)
    os.chown(folder, 0, 12345)
    with pytest.raises(InvalidRequest, match="others can write it"):
        KeyRing(folder)


@needs_root
@pytest.mark.process
@pytest.mark.parametrize(("options", "accepted"), [("ro", True), ("rw", False)])
def test_a_secret_as_kubernetes_mounts_it_is_used(folder: Path, options: str, accepted: bool) -> None:
    """Mode 1777, which is safe because the mount is read-only: nobody can add a file."""
    save_key(folder.parent, key_for("prod/"))
    lines = (
        f"mount -t tmpfs -o mode=1777 none {folder}",
        f"cp -p {folder.parent}/prod%2F.key {folder}",
        f"mount -o remount,{options} {folder}",
        f"{sys.executable} -c 'from keyvault_client import KeyRing; print(*KeyRing(\"{folder}\"))'",
    )
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", " && ".join(lines)], capture_output=True, text=True, check=False, timeout=60
    )
    if "ermission denied" in done.stderr or "not permitted" in done.stderr:
        pytest.skip("this root may not mount")
    assert (done.stdout == "prod/\n") is accepted, done.stderr
    assert accepted or "has mode 1777" in done.stderr


def test_what_is_not_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidRequest, match="file: not a folder"):
        KeyRing(tmp_path / "file")
    with pytest.raises(InvalidRequest, match="absent: no such folder: make it"):
        KeyRing(tmp_path / "absent")


def test_two_keys_of_one_scope_and_tenant_are_refused(folder: Path) -> None:
    """Which one a record needs would be a guess. The same key twice is none."""
    key_for("prod/", 1).save(folder / "a.key")
    key_for("prod/", 1).save(folder / "copy.key")
    assert KeyRing(folder)["prod/x"] == key_for("prod/", 1)
    key_for("prod/", 2).save(folder / "b.key")
    with pytest.raises(InvalidRequest) as error:
        KeyRing(folder)
    assert f"{folder}/a.key and b.key hold two keys of one scope, prod/" in str(error.value)
    assert NEW_SUFFIX in str(error.value)


def test_keys_of_two_tenants_may_have_one_scope(folder: Path) -> None:
    key_for("prod/", 1, "acme").save(folder / "a.key")
    key_for("prod/", 2, "other").save(folder / "b.key")
    ring = KeyRing(folder)
    assert ring.find("prod/x", tenant="other").tenant == "other"
    assert [one.key.tenant for one in ring.candidates("prod/x")] == ["acme", "other"]
    with pytest.raises(InvalidRequest, match="acme, other"):
        ring.find("prod/x")
    with pytest.raises(KeyNotFound, match="'third'"):
        ring.find("prod/x", tenant="third")


def test_keys_of_two_tenants_are_saved_side_by_side(folder: Path) -> None:
    ring = KeyRing(folder)
    paths = [ring.save(key_for("prod/", number, tenant)) for number, tenant in enumerate(["acme", "other"])]
    assert [path.name for path in paths] == ["prod%2F.key", "prod%2F%other.key"]
    assert [one.path for one in ring.candidates("prod/x")] == paths
    with pytest.raises(FileExistsError):
        ring.save(key_for("prod/", 3, "other"))


def test_the_new_key_of_a_rotation_comes_second(folder: Path) -> None:
    old, new, prefix = key_for("prod/db", 1), key_for("prod/db", 2), key_for("prod/", 3)
    ring = ring_of(folder, prefix, old)
    save_key(folder, new, NEW_SUFFIX)
    assert ring["prod/db"] == old
    assert [one.key for one in ring.candidates("prod/db")] == [old, new]
    assert [one.key for one in ring.candidates("prod/other")] == [prefix]
    assert [one.key for one in ring.candidates("prod/db", without=new)] == [old]
    assert list(ring) == ["prod/", "prod/db"]


def test_a_key_left_out_of_account_gives_way_to_a_shorter_scope(folder: Path) -> None:
    """A rotation to a key that is in the folder already takes the record from the key that it had."""
    new, prefix = key_for("prod/db", 1), key_for("prod/", 2)
    ring = ring_of(folder, prefix, new)
    wrapped_again = DataKey(new.tenant, new.scope, b"other", new.plaintext_key)
    for without in (new, wrapped_again, new.without_plaintext()):
        assert [one.key for one in ring.candidates("prod/db", without=without)] == [prefix]
    assert [one.key for one in ring.candidates("prod/db")] == [new]


@pytest.mark.parametrize("scope", ["prod/", ".hidden", "..", "a/" * 127, "a" * 255, "~a@b:c=d+e"])
def test_a_key_of_any_scope_can_be_saved(folder: Path, scope: str) -> None:
    path = KeyRing(folder).save(key_for(scope))
    assert path.parent == folder
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert KeyRing(folder)[scope] == key_for(scope)
    assert [each.name for each in folder.iterdir()] == [path.name], "no draft stays"


def test_scopes_that_begin_alike_have_files_of_their_own(folder: Path) -> None:
    scopes = ["a" * 254 + end for end in "bc"] + ["prod/", "prod-", ".a"]
    ring = KeyRing(folder)
    for number, scope in enumerate(scopes):
        ring.save(key_for(scope, number))
    assert sorted(ring) == sorted(scopes)


def test_a_second_key_of_a_scope_is_not_saved(folder: Path) -> None:
    """Nor does any file replace another one."""
    key_for("prod/", 1).save(folder / "mine.key")
    ring = KeyRing(folder)
    with pytest.raises(FileExistsError) as error:
        ring.save(key_for("prod/", 2))
    assert error.value.filename == f"{folder}/mine.key"
    (folder / "dev.key").write_text("")
    with pytest.raises(FileExistsError) as error:
        save_key(folder, key_for("dev"))
    assert error.value.filename == f"{folder}/dev.key"
    assert sorted(each.name for each in folder.iterdir()) == ["dev.key", "mine.key"]


def test_a_failed_save_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left") as error:
        KeyRing(folder).save(key_for("prod/"))
    assert error.value.filename == f"{folder}/prod%2F.key"
    assert list(folder.iterdir()) == []


def test_a_changed_folder_is_noticed_at_once(folder: Path) -> None:
    """A clock that stands still: no time has to pass."""
    ring = KeyRing(folder, clock=Clock())
    save_key(folder, key_for("prod/", 1))
    assert ring["prod/x"] == key_for("prod/", 1)
    key_for("prod/", 2).replace(folder / "prod%2F.key")
    assert ring["prod/x"] == key_for("prod/", 2)
    (folder / "prod%2F.key").unlink()
    assert "prod/x" not in ring


def test_an_unchanged_folder_costs_one_look_at_its_times(folder: Path) -> None:
    """A file overwritten in place shows that no file was looked at."""
    clock = Clock()
    path = save_key(folder, key_for("prod/", 1))
    ring = KeyRing(folder, clock=clock, file_clock=later)
    path.write_text(key_for("prod/", 2).to_json())
    clock.now += 3600
    assert ring["prod/x"] == key_for("prod/", 1)
    ring.reload()
    assert ring["prod/x"] == key_for("prod/", 2)


def test_a_young_folder_is_looked_at_ten_times_a_second(folder: Path) -> None:
    """Another change within a tick of the file system's clock leaves its times as they are."""
    clock = Clock()
    path = save_key(folder, key_for("prod/", 1))
    ring = KeyRing(folder, clock=clock)
    path.write_text(key_for("prod/", 2).to_json())
    assert ring["prod/x"] == key_for("prod/", 1)
    clock.now += 0.11
    assert ring["prod/x"] == key_for("prod/", 2)


def test_a_file_overwritten_in_place_is_noticed_by_a_reload(folder: Path) -> None:
    clock = Clock()
    path, ring = save_key(folder, key_for("prod/", 1)), KeyRing(folder, clock=clock)
    path.write_text(key_for("prod/", 2).to_json())
    ring.reload(least_age=0.1)
    assert ring["prod/x"] == key_for("prod/", 1)
    clock.now += 0.2
    ring.reload(least_age=0.1)
    assert ring["prod/x"] == key_for("prod/", 2)


def test_what_was_found_stays_while_the_folder_is_unusable(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    ring = KeyRing(ring_of(folder, key_for("prod/")).folder, clock=clock)
    (folder / "half.key").touch(0o600)
    with caplog.at_level(logging.ERROR, "keyvault_client"):
        for _ in range(3):
            clock.now += 1
            assert ring["prod/x"] == key_for("prod/")
    assert len(caplog.records) == 1
    assert "half.key: not a data key" in caplog.text
    with pytest.raises(InvalidRequest, match=r"half\.key: not a data key"):
        ring.find("dev/x")
    (folder / "half.key").write_text(key_for("dev/").to_json())
    clock.now += 1
    assert ring["dev/x"] == key_for("dev/")


def test_a_folder_that_was_removed_leaves_its_keys_in_use(folder: Path) -> None:
    ring = ring_of(folder, key_for("prod/"))
    (folder / "prod%2F.key").unlink()
    folder.rmdir()
    assert ring["prod/x"] == key_for("prod/")
    with pytest.raises(InvalidRequest, match="no such folder"):
        ring.find("dev")


def test_only_changed_files_are_read(folder: Path) -> None:
    old = save_key(folder, key_for("a"))
    save_key(folder, key_for("b"))
    first = read_folder(folder, file_clock=later).keys
    old.write_text(key_for("a", 2).to_json())
    again = read_folder(folder, first, later).keys
    assert again[1] is first[1]
    assert again[0].key == key_for("a", 2)
    young = read_folder(folder).keys
    assert read_folder(folder, young).keys[1] is not young[1], "a young file may change and keep its times"


def later() -> float:
    """A clock by which every file is old."""
    return time.time() + 60
