"""A person at a terminal: a command on a pseudo-terminal that is its standard streams and controls it."""

import fcntl
import os
import select
import signal
import subprocess
import termios
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.support.forked import Forked
from tests.support.forks import MAINS

SECONDS = 30


class Terminal:
    """What a person sees and types; line ends are shown as \\r\\n, as a terminal has them."""

    def __init__(self, process: "subprocess.Popen[bytes] | Forked", screen: int) -> None:
        self._process = process
        self._screen = screen
        self.shown = ""

    def wait_for(self, text: str) -> None:
        """Read the screen until it shows a text."""
        while text not in self.shown:
            assert self._read(), f"the terminal shows {self.shown!r}, not {text!r}"

    def type(self, keys: bytes) -> None:
        """Type, or paste."""
        os.write(self._screen, keys)

    def end(self) -> int:
        """Wait until the command has ended; return its exit status. The rest of the screen is then in `shown`."""
        while self._read():
            pass
        return self._process.wait(SECONDS)

    @property
    def echoes(self) -> bool:
        return bool(termios.tcgetattr(self._screen)[3] & termios.ECHO)

    def _read(self) -> bool:
        readable, _, _ = select.select([self._screen], [], [], SECONDS)
        assert readable, f"the terminal shows {self.shown!r} and waits"
        try:
            data = os.read(self._screen, 65_536)
        except OSError:  # EIO: the last process has closed it
            return False
        self.shown += data.decode(errors="replace")
        return bool(data)


def _run(
    line: Sequence[str | Path], folder: Path, environment: dict[str, str], streams: int
) -> "subprocess.Popen[bytes] | Forked":
    """Fork the command, or start what is not ours, such as a shell."""
    if Path(line[0]).name in MAINS:
        return Forked(line, environment, (streams, streams, streams), folder, terminal=True)
    return subprocess.Popen(
        line,
        cwd=folder,
        env=environment,
        stdin=streams,
        stdout=streams,
        stderr=streams,
        start_new_session=True,
        preexec_fn=_be_controlled,  # noqa: PLW1509 - one command of a test
    )


def _be_controlled() -> None:
    """Let Ctrl-C reach the new process, which a run in the background would have it ignore."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def at_terminal(line: Sequence[str | Path], folder: Path, environment: dict[str, str]) -> Iterator[Terminal]:
    """Run a command; kill it at the end if it still runs."""
    screen, streams = os.openpty()
    try:
        try:
            process = _run(line, folder, environment, streams)
        finally:
            os.close(streams)
        with process:
            try:
                yield Terminal(process, screen)
            finally:
                if process.poll() is None:
                    process.kill()
    finally:
        os.close(screen)
