"""Revisions that this client has proved: an older one later means that the store was rolled back.

The rule of this file: only a revision that was opened under the record's key, or acknowledged by an OK for the revision
that was sealed, is remembered. Any other number may be made up.
"""

from collections import OrderedDict
from contextlib import AbstractContextManager, nullcontext

from keyvault_client.errors import RolledBack
from keyvault_client.keys import DataKey
from keyvault_client.revision_file import RevisionFile


class SeenRevisions:
    """The highest revision of each of the `limit` names that were used last; with a file, of those in it too."""

    def __init__(self, limit: int, file: RevisionFile | None = None) -> None:
        self._limit = limit
        self._file = file
        self._revisions: OrderedDict[tuple[str, str], int] = OrderedDict()

    def get(self, key: DataKey, key_id: str) -> int:
        """Return the highest proved revision of this name, 0 if none is remembered.

        Raises InvalidRequest if there is a file and its content is invalid.
        """
        remembered = self._revisions.get((key.tenant, key_id), 0)
        return max(remembered, self._file.get(key, key_id)) if self._file else remembered

    def note(self, key: DataKey, key_id: str, revision: int) -> None:
        """Remember a revision that was proved under this key, unless a higher one is remembered already."""
        name = (key.tenant, key_id)
        self._revisions[name] = max(revision, self._revisions.get(name, 0))
        self._revisions.move_to_end(name)
        if len(self._revisions) > self._limit:
            self._revisions.popitem(last=False)
        if self._file:
            self._file.note(key, key_id, revision)

    def together(self) -> AbstractContextManager[None]:
        """Write the file once for what is noted in the block, which must not await: many writes take seconds."""
        return self._file.together() if self._file else nullcontext()


def refuse_rollback(key_id: str, revision: int, floor: int) -> None:
    """Raise RolledBack if the server shows a revision below the one that was proved before the call."""
    if revision < floor:
        raise RolledBack(key_id, revision=revision, seen=floor)
