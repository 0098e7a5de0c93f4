"""How far long work is, on a terminal; nothing in a pipe or a log."""

import sys
from types import TracebackType
from typing import Self


class Progress:
    """A line on standard error that counts; use it as a context manager, which removes the line."""

    def __init__(self, what: str, total: int) -> None:
        """`what` is what is done to each, such as "rotated"."""
        self._what = what
        self._total = total
        self._done = 0
        self._shown = sys.stderr is not None and sys.stderr.isatty()

    def __enter__(self) -> Self:
        self._show()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._write("\r\x1b[K")

    def step(self) -> None:
        """Count one more."""
        self._done += 1
        self._show()

    def _show(self) -> None:
        self._write(f"\r{self._what} {self._done} of {self._total}")

    def _write(self, text: str) -> None:
        if self._shown:
            sys.stderr.write(text)
            sys.stderr.flush()
