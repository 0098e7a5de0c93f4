"""Revisions that this client has seen of each name: an older one later means that the store was rolled back."""

from collections import OrderedDict

from keyvault_client.errors import RolledBack


class SeenRevisions:
    """The highest revision seen of each of the `limit` names that were used last."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._revisions: OrderedDict[str, int] = OrderedDict()

    def get(self, key_id: str) -> int:
        """Return the highest revision seen of this name, 0 if none is remembered."""
        return self._revisions.get(key_id, 0)

    def note(self, key_id: str, revision: int) -> None:
        """Remember this revision, unless a higher one is remembered already."""
        self._revisions[key_id] = max(revision, self.get(key_id))
        self._revisions.move_to_end(key_id)
        if len(self._revisions) > self._limit:
            self._revisions.popitem(last=False)

    def advance(self, key_id: str, revision: int, floor: int) -> int:
        """Remember and return a revision that the server sent. Raises RolledBack if it is below `floor`."""
        if revision < floor:
            raise RolledBack(key_id, revision=revision, seen=floor)
        self.note(key_id, revision)
        return revision
