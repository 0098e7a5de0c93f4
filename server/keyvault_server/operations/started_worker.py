"""One worker as its parent sees it: a process that was started, what it reports, and its end."""

import asyncio
import contextlib
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from keyvault_server.core.errors import OperatorError
from keyvault_server.operations.channel import Channel, Order, Report
from keyvault_server.operations.environment import environment_for_worker

SILENT_SECONDS = 30.0
"""A worker that has not reported for so long hangs."""


class WorkerEnded(OperatorError):
    """A worker ended before it served; the message is its own refusal, or its exit status."""


class StartedWorker:
    """A process, from its start to its end. Belongs to one event loop."""

    def __init__(
        self, number: int, process: asyncio.subprocess.Process, channel: Channel, clock: Callable[[], float]
    ) -> None:
        self.number = number
        self.pid = process.pid
        self.status: int | None = None
        """Exit status, or minus the signal that ended it; None while it runs."""
        self.refusal = ""
        """The sentence with which it ended."""
        self._process = process
        self._channel = channel
        self._ready = False
        self._clock = clock
        self._heard = clock()
        self._reached: set[str] = set()
        self._changed = asyncio.Event()
        self._following = asyncio.create_task(self._follow())

    @classmethod
    async def start(
        cls, command: Sequence[str], number: int, metrics: Path | None, clock: Callable[[], float]
    ) -> "StartedWorker":
        """Start the same command as a worker; `metrics` is the folder of its numbers. Raises OSError."""
        ours, theirs = socket.socketpair()
        with contextlib.ExitStack() as ours_if_it_fails, theirs:
            ours_if_it_fails.enter_context(ours)
            process = await asyncio.create_subprocess_exec(
                *command,
                f"--worker={number}",
                f"--channel={theirs.fileno()}",
                pass_fds=(theirs.fileno(),),
                env=environment_for_worker(metrics),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,  # its own lines are those of its log
                stderr=sys.stderr,
                process_group=0,  # Ctrl-C on a terminal is for the parent
            )
            ours_if_it_fails.pop_all()
        return cls(number, process, Channel(ours), clock)

    @property
    def serves(self) -> bool:
        """Whether it accepts connections."""
        return Report.SERVING in self._reached and self.status is None

    @property
    def ready(self) -> bool:
        """Whether it serves, and its backends answered lately."""
        return self.serves and self._ready

    @property
    def hangs(self) -> bool:
        """Whether it serves, and its event loop does not turn."""
        return self.serves and self._clock() - self._heard > SILENT_SECONDS

    def send(self, order: Order, text: str = "") -> None:
        """Ask it for something."""
        self._channel.send(order, text)

    async def reach(self, report: Report) -> None:
        """Return once it reported PREPARED or SERVING. Raises WorkerEnded."""
        while report not in self._reached:
            if self.status is not None:
                raise WorkerEnded(self.refusal or f"worker {self.number} ended with status {self.status}: see its log")
            self._changed.clear()
            await self._changed.wait()

    async def end(self) -> None:
        """Return when the process has ended."""
        await asyncio.shield(self._following)

    def kill(self) -> None:
        """End it at once, if it still runs."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def _follow(self) -> None:
        async for word, text in self._channel.messages():
            self._heard = self._clock()
            if word == Report.REFUSED:
                self.refusal = text
            elif word in (Report.READY, Report.UNREADY):
                self._ready = word == Report.READY
            else:
                self._reached.add(word)
                self._changed.set()
        self.status = await self._process.wait()
        self._channel.close()
        self._changed.set()
