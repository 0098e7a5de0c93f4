"""gRPC's own threads, at a lower priority than the event loop's.

They wake up some seven times a call, and each time on the event loop's core they take it away in the middle of its
work: a fifth of a Read's CPU time goes into these changes. At a lower priority they run when the event loop waits, or
on another core. (SCHED_BATCH, which is meant for that, gains less, and makes a write slow on a core that is busy.)

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
