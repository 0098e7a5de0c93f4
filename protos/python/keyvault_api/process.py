"""What a process that holds keys asks of the operating system for itself: the server and the command, never a library.

Source: setrlimit(2), prctl(2), core(5).
"""

import ctypes
import resource
import sys
from functools import cache

_PR_SET_DUMPABLE = 4  # linux/prctl.h


def close_memory(*, for_good: bool = True) -> None:
    """Let nobody but root read this process's memory (core file, debugger, /proc): it holds data keys.

    With for_good=False, a program that this one becomes can have its limit of core files back.
    """
    _, hard = core_limit_at_start()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0 if for_good else hard))
    if sys.platform == "linux":  # a core_pattern that begins with a pipe ignores the limit
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


@cache
def core_limit_at_start() -> tuple[int, int]:
    """Return the limit of core files that this process was started with, soft and hard, in bytes."""
    return resource.getrlimit(resource.RLIMIT_CORE)
