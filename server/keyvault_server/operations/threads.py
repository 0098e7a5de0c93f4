"""The scheduling of a server's threads: gRPC's own ones disturb the event loop as little as possible.

They wake up some seven times a call, and each time on the event loop's core they take it away in the middle of its
work. At a lower priority they run when the event loop waits, or on another core; as a batch (sched(7)) they do not
interrupt it when they wake up. Either alone makes less of a difference than both.

The rule of this file: only gRPC's threads, never the ones that the event loop waits for (a COMMIT, the audit log).
"""

import asyncio
import contextlib
import os
import threading
from pathlib import Path

NICENESS = 10
"""By how much their priority is lower: a tenth of the event loop's share where both want to run (sched(7))."""
_NAMES = ("event_engine", "grpc_global_tim", "lifeguard")
_POLLER = "_poll_wrapper"
_LOOKS = (0.0, 0.1, 1.0, 10.0)


def schedule_as_batch() -> None:
    """Let a thread that wakes up not interrupt another one, for this thread and all that are started from now on.

    Does nothing where the system is not Linux or does not allow it, or where the operator chose a policy.
    """
    with contextlib.suppress(AttributeError, OSError):
        if os.sched_getscheduler(0) == os.SCHED_OTHER:
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


async def keep_lowered() -> None:
    """Lower the priority of gRPC's threads: at once, and when those that start with the server have got their names.

    A thread gets its name only when it runs for the first time. Those that a lowered one starts are lowered from birth.
    """
    for seconds in _LOOKS:
        await asyncio.sleep(seconds)
        lower_grpc_threads()


def lower_grpc_threads() -> None:
    """Lower the priority of gRPC's threads that have their names.

    Does nothing where the system is not Linux or does not allow it: then they preempt the event loop, which costs time
    only.
    """
    pollers = {thread.native_id for thread in threading.enumerate() if _POLLER in thread.name}
    niceness = os.getpriority(os.PRIO_PROCESS, os.getpid()) + NICENESS  # of the main thread; the system lowers 20 to 19
    tasks = Path("/proc/self/task")
    for task in tasks.iterdir() if tasks.is_dir() else ():
        with contextlib.suppress(OSError):  # it has just ended, or it may not be lowered
            number = int(task.name)
            if number in pollers or (task / "comm").read_text().strip() in _NAMES:
                os.setpriority(os.PRIO_PROCESS, number, niceness)
