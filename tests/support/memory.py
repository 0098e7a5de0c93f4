"""The memory of this process: how far a peak goes above what it had. Linux."""

from pathlib import Path
from types import TracebackType

_STATUS = Path("/proc/self/status")


class Peak:
    """The peak of resident memory while the body runs, above what it was when the body began."""

    def __init__(self) -> None:
        self.grown = 0.0
        """MB; known when the body has ended."""

    def __enter__(self) -> "Peak":
        Path("/proc/self/clear_refs").write_text("5")  # the peak is what is resident now (proc(5))
        self._before = _megabytes("VmRSS")
        return self

    def __exit__(self, kind: type[BaseException] | None, raised: BaseException | None, _: TracebackType | None) -> None:
        self.grown = _megabytes("VmHWM") - self._before


def _megabytes(name: str) -> float:
    (line,) = [line for line in _STATUS.read_text().splitlines() if line.startswith(f"{name}:")]
    return int(line.split()[1]) / 1024
