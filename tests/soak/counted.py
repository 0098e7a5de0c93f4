"""The command `keyvault-server` with one thing more: SIGUSR1 writes how many asyncio tasks and descriptors there are.

    SOAK_COUNTS=FILE python -m tests.soak.counted serve ...

So that tasks can be counted in a real server without a switch in it, and descriptors, which none but root sees from
outside. The rule of this file: it runs `main` and changes nothing of it.
"""

import asyncio
import os
import signal
from pathlib import Path

from keyvault_server.operations.cli import main


def _write_counts(*_: object) -> None:
    """Runs between two steps of the event loop, on its thread."""
    file = Path(os.environ["SOAK_COUNTS"])
    draft = file.with_suffix(".draft")
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    draft.write_text(f"{len(asyncio.all_tasks())} {descriptors}")
    draft.replace(file)


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, _write_counts)
    main()
