"""What the server asks of the system for its own process."""

import ctypes
import resource
import sys

_PR_SET_DUMPABLE = 4  # linux/prctl.h


def close_memory() -> None:
    """Nobody but root looks into this process, by a core file, a debugger or /proc: its memory holds data keys."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":  # beside the limit, which a core_pattern that begins with a pipe does not heed
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
