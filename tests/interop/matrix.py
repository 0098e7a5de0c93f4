"""Which language understands which, as a table at the end of a test run."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.interop.programs import LANGUAGES

TITLE = "who creates (down) and who then reads, updates, rotates and deletes (across)"


class Matrix:
    """A cell for each pair; empty where no test came by."""

    def __init__(self) -> None:
        self._cells: dict[tuple[str, str], str] = {}

    @contextmanager
    def cell(self, creator: str, other: str) -> Iterator[None]:
        """Notes how the body ends."""
        self._cells[creator, other] = "FAILED"
        try:
            yield
        except pytest.skip.Exception as skipped:
            self._cells[creator, other] = str(skipped)
            raise
        self._cells[creator, other] = "ok"

    def table(self) -> str:
        """One line a creator."""
        lines = [["", *LANGUAGES]]
        lines += [[creator, *(self._cells.get((creator, other), "") for other in LANGUAGES)] for creator in LANGUAGES]
        return "\n".join("".join(word.ljust(12) for word in line).rstrip() for line in lines)
