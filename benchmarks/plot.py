"""Line plots as SVG text, drawn without a library.

The rule of this file: both axes begin at 0, and the numbers that the lines are drawn from stand in a table next to the
plot.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT = 640, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 200, 16, 44
_COLOURS = ("#0b62a4", "#c8541d", "#2f8f4e", "#8a4fbf")
_STEPS = (0.1, 0.2, 0.25, 0.5, 1, 2, 5, 10)
_MOST_MARKS = 6


@dataclass(frozen=True)
class Axes:
    """What the axes say."""

    across: str
    up: str


@dataclass(frozen=True)
class Line:
    """One line: its title, and its points."""

    title: str
    points: Sequence[tuple[float, float]]


def plot(axes: Axes, lines: Sequence[Line]) -> str:
    """Return the SVG text of up to four lines."""
    widest = max(x for line in lines for x, _ in line.points)
    highest = max(1.0, *(y for line in lines for _, y in line.points)) * 1.05
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM

    def place(x: float, y: float) -> tuple[float, float]:
        return _LEFT + x / widest * (right - _LEFT), bottom - y / highest * (bottom - _TOP)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}"'
        ' font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
    ]
    for x in _marks(widest):
        at, _ = place(x, 0)
        parts.append(f'<path d="M{at:.1f} {_TOP}V{bottom}" stroke="#ddd"/>')
        parts.append(f'<text x="{at:.1f}" y="{bottom + 16}" text-anchor="middle">{x:g}</text>')
    for y in _marks(highest):
        _, at = place(0, y)
        parts.append(f'<path d="M{_LEFT} {at:.1f}H{right}" stroke="#ddd"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{y:g}</text>')
    middle = (_LEFT + right) / 2
    parts.append(f'<text x="{middle:.0f}" y="{_HEIGHT - 8}" text-anchor="middle">{escape(axes.across)}</text>')
    turned = f"translate(14 {(_TOP + bottom) / 2:.0f}) rotate(-90)"
    parts.append(f'<text transform="{turned}" text-anchor="middle">{escape(axes.up)}</text>')
    for number, line in enumerate(lines):
        parts += _drawn(line, _COLOURS[number], [place(x, y) for x, y in line.points], _TOP + 14 + 20 * number)
    return "\n".join([*parts, "</svg>", ""])


def _drawn(line: Line, colour: str, places: list[tuple[float, float]], legend: int) -> Iterator[str]:
    """Yield a line, its points, and its title in the legend at that height."""
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    yield f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>'
    for x, y in places:
        yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>'
    right = _WIDTH - _RIGHT + 14
    yield f'<path d="M{right} {legend - 4}h18" stroke="{colour}" stroke-width="2"/>'
    yield f'<text x="{right + 24}" y="{legend}">{escape(line.title)}</text>'


def _marks(most: float) -> list[float]:
    """Return round numbers from 0 to the largest value."""
    step = next((step for step in _STEPS if most / step <= _MOST_MARKS), most)
    return [step * number for number in range(int(most / step) + 1)]
