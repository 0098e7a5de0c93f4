"""What a process that holds keys asks of the operating system for itself: the server and the command, never a library.

Source: setrlimit(2), prctl(2), core(5).
"""

import ctypes
import resource
import sys

_PR_SET_DUMPABLE = 4  # linux/prctl.h


def close_memory() -> None:
    """Let nobody but root read this process's memory (core file, debugger, /proc): it holds data keys."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":  # a core_pattern that begins with a pipe ignores the limit
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
