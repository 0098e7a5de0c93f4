"""The command `keyvault-server` with one thing more: SIGUSR1 writes how many asyncio tasks there are.

    SOAK_TASKS=FILE python -m tests.soak.counted serve ...

So that tasks can be counted in a real server without a switch in it. The rule of this file: it runs `main` and changes
nothing of it.
"""

import asyncio
import os
import signal
from pathlib import Path

from keyvault_server.cli import main


def _write_tasks(*_: object) -> None:
    """Runs between two steps of the event loop, on its thread."""
    file = Path(os.environ["SOAK_TASKS"])
    draft = file.with_suffix(".draft")
    draft.write_text(str(len(asyncio.all_tasks())))
    draft.replace(file)


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, _write_tasks)
    main()
