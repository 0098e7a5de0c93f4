"""POSIX access control lists of Linux: who else may use a file than its mode says.

With an ACL the bits of the group in a mode are its mask: the most that it gives to groups and to named users. The list
has the rights of the own group of the file. Other kinds of ACLs, as NFSv4 has them, are not looked at.

Sources: acl(5), linux/posix_acl_xattr.h.
"""

import errno
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

READ, WRITE = 4, 2
"""Bits of the rights, as in a mode."""

_ATTRIBUTE = "system.posix_acl_access"
_VERSION = struct.pack("<I", 2)
_ENTRY = struct.Struct("<HHI")  # tag, rights, id
_USER, _GROUP_OWNER, _GROUP, _MASK = 0x02, 0x04, 0x08, 0x10
_NONE = {errno.ENODATA, errno.EOPNOTSUPP, errno.ENOSYS}
"""Errors of a file without an ACL, and of a file system or a kernel without ACLs."""


class Acl(NamedTuple):
    """The rights that a list gives, as its mask leaves them."""

    group: int
    """Rights of the file's own group."""
    users: dict[int, int]
    """Rights of named users, by uid."""
    groups: dict[int, int]
    """Rights of named groups, by gid."""


def read_acl(file: int | Path | str) -> Acl | None:
    """Return the ACL of an open file, or of the one at a path; None if it has none.

    Raises OSError; ValueError for a list of a form that is unknown here.
    """
    if not hasattr(os, "getxattr"):  # only Linux has it
        return None
    try:
        content = os.getxattr(file, _ATTRIBUTE)
    except OSError as error:
        if error.errno in _NONE:
            return None
        raise
    return parse_acl(content)


def parse_acl(content: bytes) -> Acl:
    """Return the list in an extended attribute. Raises ValueError for a form that is unknown here."""
    if not content.startswith(_VERSION) or len(content) % _ENTRY.size != len(_VERSION):
        raise ValueError("unknown form of an ACL")
    entries = list(_ENTRY.iter_unpack(content[len(_VERSION) :]))
    mask = next((rights for tag, rights, _ in entries if tag == _MASK), 7)

    def named(kind: int) -> Iterator[tuple[int, int]]:
        return ((number, rights & mask) for tag, rights, number in entries if tag == kind)

    return Acl(sum(rights for _, rights in named(_GROUP_OWNER)), dict(named(_USER)), dict(named(_GROUP)))
