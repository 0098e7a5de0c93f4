"""A file that is replaced while somebody reads it."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.certificates import replace


@contextmanager
def changing_while_read(path: Path, content: bytes, successor: bytes) -> Iterator[None]:
    """Give the next reader of the file `content`; before it has read that, the file holds `successor`."""
    pipe = path.with_name(f"{path.name}.pipe")
    os.mkfifo(pipe)
    pipe.replace(path)

    def write() -> None:
        with path.open("wb", buffering=0) as file:  # waits for the reader
            replace(path, successor)
            file.write(content)

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    yield
    thread.join(10)
    assert not thread.is_alive(), "nobody has read the file"
