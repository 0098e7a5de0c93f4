"""What this client has seen of each name: an older revision later means that the store was rolled back."""

from collections import OrderedDict

from keyvault_client.errors import RolledBack


class Seen:
    """The highest revision seen of each name, the least recently used ones forgotten."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._revisions: OrderedDict[str, int] = OrderedDict()

    def get(self, key_id: str) -> int:
        """0 if none is known."""
        return self._revisions.get(key_id, 0)

    def note(self, key_id: str, revision: int) -> None:
        """Keeps the higher one."""
        self._revisions[key_id] = max(revision, self.get(key_id))
        self._revisions.move_to_end(key_id)
        if len(self._revisions) > self._limit:
            self._revisions.popitem(last=False)

    def advance(self, key_id: str, revision: int, floor: int) -> int:
        """Notes what the server showed, which had to be `floor` at least; returns it. Raises RolledBack."""
        if revision < floor:
            raise RolledBack(key_id, revision=revision, seen=floor)
        self.note(key_id, revision)
        return revision
