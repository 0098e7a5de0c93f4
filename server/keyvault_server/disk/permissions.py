"""Who may read or write a file: one rule for every file that decides something or holds a secret.

The rule of this file. A file belongs to us or to root, and nobody else may write it but a group of ours. A secret is
also readable by nobody else but a group of ours; `group_reads` allows any group, as Debian's ssl-cert has it for TLS
keys. A group of ours lets in what a umask of 002 makes where each user has a group alone, and what Kubernetes makes of
a volume with fsGroup: it sets the group's bits on every file at a pod's start. A file that breaks the rule is refused,
never repaired: somebody may have used it already.

Folders above a file are not looked at: Kubernetes mounts ConfigMaps on ones of mode 0777, read-only.
"""

from pathlib import Path

from keyvault_api.files import why_unsafe
from keyvault_server.core.errors import OperatorError


class UnsafeFile(OperatorError):
    """Others may read or write the file; the message names it, its mode or owner, and what to do."""


def refuse_unsafe(path: Path, opened: int | None = None, *, secret: bool = False, group_reads: bool = False) -> None:
    """Raise UnsafeFile for a file or folder that others may write, or, if `secret`, read.

    `opened` is the descriptor of the open file, where there is one: the path may lead elsewhere by now. Raises OSError
    if it cannot be looked at.
    """
    if why := why_unsafe(path, opened, secret=secret, group_reads=group_reads):
        raise UnsafeFile(why)
