"""A program below this process, which is restarted when its secrets change.

The rules of this file:

* The program sees what a shell would give it, but for its parent. It shares our process group, so the keys of the
  terminal reach it by themselves; other signals are forwarded.
* It ends before the next one starts. When it ends by itself, or because of a signal that was sent to us, so do we.
"""

import asyncio
import contextlib
import os
import resource
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import Callable, Iterator, Mapping, Sequence

from keyvault_api.process import close_memory, core_limit_at_start
from keyvault_client.errors import KeyVaultError
from keyvault_client.program import why_not_started
from keyvault_client.terminal import print_error

STOP_SECONDS = 10.0
"""How long a program may take to end after SIGTERM, before SIGKILL."""
FORWARDED = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
_OF_THE_TERMINAL = (signal.SIGINT, signal.SIGQUIT)
_TO_END = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


class WatchedProgram:
    """One program at a time, in this environment with values that may change."""

    def __init__(self, path: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._path = path
        self._command = command
        self._environment = environment
        self._process: Process | None = None
        self._is_to_end = False

    async def run(self, values: Callable[[], Mapping[str, str]], changed: asyncio.Event) -> int:
        """Run the program until it ends, and restart it when `changed` is set.

        Returns its exit code, 128 + N for signal N. Raises KeyVaultError if it cannot be started.
        """
        with self._forwarding():
            self._process = await self._start(values())
            try:
                while not await self._has_ended(changed):
                    await self._restart(values)
            finally:
                await self._stop()
        status = self._process.returncode
        assert status is not None
        return status if status >= 0 else 128 - status

    async def _has_ended(self, changed: asyncio.Event) -> bool:
        """Wait for the end of the program or for a change; return whether it has ended."""
        assert self._process is not None
        ended, change = asyncio.create_task(self._process.wait()), asyncio.create_task(changed.wait())
        await asyncio.wait({ended, change}, return_when=asyncio.FIRST_COMPLETED)
        change.cancel()
        if ended.done():
            return True
        ended.cancel()
        changed.clear()
        return False

    async def _restart(self, values: Callable[[], Mapping[str, str]]) -> None:
        """Replace the program by one with the new values; if it cannot have them, let the program run."""
        try:
            new = values()
        except KeyVaultError as error:
            print_error(f"keyvault: not restarted: {error}")
            return
        print_error("keyvault: a secret has changed: restarting the program")
        self._is_to_end = False  # what the program survived before is past
        await self._stop()
        if not self._is_to_end:
            self._process = await self._start(new)
            if self._is_to_end:  # a signal came while there was no program to forward it to
                await self._stop()

    async def _start(self, values: Mapping[str, str]) -> Process:
        resource.setrlimit(resource.RLIMIT_CORE, core_limit_at_start())
        try:
            return await asyncio.create_subprocess_exec(
                *self._command, executable=self._path, env={**self._environment, **values}, stderr=sys.stderr
            )
        except OSError as error:
            raise why_not_started(self._path, error) from None
        finally:
            close_memory(for_good=False)

    async def _stop(self) -> None:
        """End the program if it runs: SIGTERM, and SIGKILL if it takes too long."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), STOP_SECONDS)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    @contextlib.contextmanager
    def _forwarding(self) -> Iterator[None]:
        """Forward signals to the program that runs."""
        loop = asyncio.get_running_loop()
        ours = [number for number in FORWARDED if signal.getsignal(number) is not signal.SIG_IGN]
        for number in ours:
            loop.add_signal_handler(number, self._forward, number)
        try:
            yield
        finally:
            for number in ours:
                loop.remove_signal_handler(number)

    def _forward(self, number: signal.Signals) -> None:
        self._is_to_end = self._is_to_end or number in _TO_END
        if number in _OF_THE_TERMINAL and _is_in_foreground():
            return  # the terminal has sent it to the program, too
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)


def _is_in_foreground() -> bool:
    """Return whether the keys of a terminal reach our process group."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    finally:
        os.close(terminal)
