"""One rule for who may read or write a file: we, root and a group of ours."""

import errno
import os
import struct
from pathlib import Path

import pytest

from keyvault_api.acl import parse_acl
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
    with path.open("rb") as file:
        path.rename(path.with_name("opened"))
        path.write_bytes(b"")
        path.chmod(0o666)
        refuse_unsafe(path, file.fileno())
        with pytest.raises(UnsafeFile):
            refuse_unsafe(path)


Entry = tuple[int, int, int]
USER, GROUP_OWNER, GROUP, MASK, OTHER = 0x02, 0x04, 0x08, 0x10, 0x20
NO_ID = 2**32 - 1
NOBODY = 54_321


def give(path: Path, *named: Entry, group: int = 0, mask: int = 7) -> None:
    """Give a file an ACL, as setfacl writes it: (tag, rights, id) in the order of their tags."""
    entries = [(0x01, 6, NO_ID), (GROUP_OWNER, group, NO_ID), *named, (MASK, mask, NO_ID), (OTHER, 0, NO_ID)]
    content = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in sorted(entries))
    try:
        os.setxattr(path, "system.posix_acl_access", content)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            pytest.skip("this file system has no ACLs")
        raise


@pytest.mark.parametrize(("entry", "who"), [((USER, 6, NOBODY), "user"), ((GROUP, 2, NOBODY), "group")])
@pytest.mark.parametrize("options", [{}, {"secret": True}, {"secret": True, "group_reads": True}], ids=str)
def test_a_file_that_an_acl_lets_another_write_is_refused(
    path: Path, entry: Entry, who: str, options: dict[str, bool]
) -> None:
    give(path, entry)
    remedy = f"`setfacl -x {who[0]}:{NOBODY} {path}`"
    with pytest.raises(UnsafeFile) as refused:
        refuse_unsafe(path, **options)
    assert str(refused.value) == (
        f"{path} has an access control list, so {who} {NOBODY} can write it: check that nobody did, then {remedy}"
    )
    with path.open("rb") as file, pytest.raises(UnsafeFile):
        refuse_unsafe(path, file.fileno(), **options)


@pytest.mark.parametrize("entry", [(USER, 4, NOBODY), (GROUP, 4, NOBODY)])
def test_a_secret_that_an_acl_lets_another_read_is_refused(path: Path, entry: Entry) -> None:
    """Other files may be read, and so may a key that any group may read."""
    give(path, entry)
    refuse_unsafe(path)
    refuse_unsafe(path, secret=True, group_reads=True)
    with pytest.raises(UnsafeFile, match=f"{NOBODY} can read it"):
        refuse_unsafe(path, secret=True)


def test_an_acl_for_us_root_and_our_groups_is_no_matter(path: Path) -> None:
    give(path, (USER, 6, 0), (USER, 6, os.geteuid()), (GROUP, 6, os.getegid()), group=6)
    refuse_unsafe(path, secret=True)


def test_what_the_mask_of_an_acl_takes_is_not_given(path: Path) -> None:
    give(path, (USER, 6, NOBODY), mask=4)
    refuse_unsafe(path)
    give(path, (USER, 6, NOBODY), mask=0)
    refuse_unsafe(path, secret=True)


def test_the_mask_of_an_acl_is_not_the_right_of_the_group(path: Path) -> None:
    """The mode shows the mask in the group's place: 0670 here."""
    give_to_foreign_group(path)
    give(path, (USER, 6, os.geteuid()), group=0)
    assert path.stat().st_mode & 0o070
    refuse_unsafe(path, secret=True)
    give(path, (USER, 6, os.geteuid()), group=2)
    with pytest.raises(UnsafeFile, match="others can read or write it"):
        refuse_unsafe(path, secret=True)


def test_an_acl_of_an_unknown_form_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown form"):
        parse_acl(struct.pack("<I", 3))
