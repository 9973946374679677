"""Charts of a page as inline SVG, coloured by the style of `vatt.html`: bars, lines, a roofline. Panels of bars are a
file of their own.

A ``kind`` is a CSS class of that style, a ``title`` comes up under the pointer, a ``label`` says what is shown.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from vatt.html import svg, svg_circle, svg_group, svg_line, svg_rectangle, svg_text

_BAR = 34.0  # height of one bar with its words
_SIDE, _NAME, _THICK = 340.0, 24, 9.0  # width of a small chart, letters of a name that fit, thickness of a bar

Place = tuple[float, float]
Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class Bar:
    """``words``: its figure; ``low`` and ``high``: ends of its whisker, in the unit of ``value``, or both None."""

    name: str
    words: str
    value: float
    low: float | None
    high: float | None
    kind: str
    title: str


def bar_chart(bars: Sequence[Bar], label: str) -> str:
    """Horizontal bars below one another."""
    return svg(_SIDE, _BAR * len(bars) + 4, label, "bars", _draw_bars(bars, _SIDE, 0.0, 0.0))


def _draw_bars(bars: Sequence[Bar], width: float, left: float, above: float) -> Iterable[str]:
    """Bars, each with its words above it, to be part of a drawing."""
    scale = (width - 4) / max(max(bar.value, bar.high or 0) for bar in bars)
    for place, bar in enumerate(bars):
        top = above + _BAR * place
        name = bar.name if len(bar.name) <= _NAME else bar.name[: _NAME - 1] + "…"
        parts = [
            svg_text(left, top + 14, name, bar.kind if bar.kind == "ours" else ""),
            svg_text(left + width - 2, top + 14, bar.words, "note", "end"),
            svg_rectangle(left, top + 21, max(bar.value * scale, 1.0), _THICK, bar.kind),
        ]
        if bar.low is not None and bar.high is not None:
            low, high, middle = left + bar.low * scale, left + bar.high * scale, top + 21 + _THICK / 2
            parts.append(svg_line([(low, middle), (high, middle)], "whisker"))
            parts += [svg_line([(x, middle - 4), (x, middle + 4)], "whisker") for x in (low, high)]
        yield svg_group(parts, bar.title)


@dataclass(frozen=True)
class Panel:
    """Bars with a title and a line under it."""

    title: str
    under: str
    bars: Sequence[Bar]


# Panels: sizes of the picture, and its style.
_WHOLE, _MARGIN, _GAP = 860.0, 24.0, 36.0
_PANEL = (_WHOLE - 2 * _MARGIN - _GAP) / 2
_HEAD, _TITLE, _BELOW = 58.0, 34.0, 22.0  # heights
_STYLE = """
text { fill: #1c2128; font-family: system-ui, sans-serif; } .note { fill: #57606a; }
.back { fill: #fff; stroke: #d8dee4; }
.ours { fill: #0b5bd3; } text.ours { font-weight: 600; } .again { fill: #8db8f2; } .baseline { fill: #b3bcc6; }
.whisker { stroke: #1c2128; stroke-width: 1.3; } .title { font-weight: 600; }
"""


def panels(title: str, found: Sequence[Panel], caption: str) -> str:
    """A whole SVG file for a README: panels in two columns under a title, and a caption below them. It has a style and
    a background of its own, so it reads the same on a light and on a dark page."""
    parts, bottom = [], _HEAD
    for place in range(0, len(found), 2):
        pair = found[place : place + 2]
        for side, panel in enumerate(pair):
            left = _MARGIN + side * (_PANEL + _GAP)
            parts.append(svg_text(left, bottom + 12, panel.title, "title", size=13.5))
            parts.append(svg_text(left, bottom + 28, panel.under, "note"))
            parts += _draw_bars(panel.bars, _PANEL, left, bottom + _TITLE)
        bottom += _TITLE + _BAR * max(len(panel.bars) for panel in pair) + _BELOW
    lines = textwrap.wrap(caption, 128)
    parts += [svg_text(_MARGIN, bottom + 16 + 17 * place, line, "note") for place, line in enumerate(lines)]
    height = bottom + 17 * len(lines) + 24
    back = svg_rectangle(0.5, 0.5, _WHOLE - 1, height - 1, "back", round=10)
    head = svg_text(_MARGIN, 36, title, "title", size=18)
    drawn = svg(_WHOLE, height, " ".join(lines), "report", [f"<style>{_STYLE}</style>", back, head, *parts])
    return drawn.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1) + "\n"


@dataclass(frozen=True)
class Point:
    """``name``: of what is named once beside one of its points; ``named``: this may be that point."""

    at: Place
    kind: str
    title: str = ""
    square: bool = False
    name: str = ""
    named: bool = False

    def draw(self, x: float, y: float, size: float = 5) -> str:
        if self.square:
            return svg_rectangle(x - size, y - size, 2 * size, 2 * size, self.kind, self.title, round=0)
        return svg_circle(x, y, size, self.kind, self.title)


@dataclass(frozen=True)
class Line:
    """A line through points from left to right; it breaks at a point that is not finite. ``name``: for the legend;
    ``size``: of a mark at each point."""

    points: Sequence[Point]
    kind: str
    name: str = ""
    size: float | None = None


def line_chart(
    lines: Sequence[Line], ticks: Mapping[int, str], below: str, label: str, size: Place = (_SIDE, 170.0)
) -> str:
    """Lines over a common axis from zero. ``ticks``: names at places of the horizontal axis; ``below``: what it is."""
    (width, height), left, edge, foot = size, 54.0, 14.0, 40.0
    named = [line for line in lines if line.name]
    top = edge + (16 if named else 0)
    shown = [point.at for line in lines for point in line.points if math.isfinite(point.at[1])]
    most = max((y for _, y in shown), default=1.0) * 1.08 or 1.0
    first = min((x for x, _ in shown), default=0.0)
    span = max((x for x, _ in shown), default=0.0) - first or 1.0

    def place(x: float, y: float) -> Place:
        return left + (x - first) / span * (width - left - edge), height - foot - y / most * (height - top - foot)

    parts = []
    for value in (0.0, most / 2, most):
        y = place(first, value)[1]
        parts.append(svg_line([(left, y), (width - edge, y)], "grid"))
        parts.append(svg_text(left - 6, y + 4, f"{value:.3g}", "note", "end", 11))
    for at, name in ticks.items():
        anchor = "start" if at == first else "end" if at == first + span else "middle"
        parts.append(svg_text(place(at, 0)[0], height - 20, name, "note", anchor, 11))
    parts.append(svg_text(left, height - 4, below, "note", "start", 11))
    for number, line in enumerate(named):
        x = left + number * (width - left - edge) / len(named)
        parts.append(svg_line([(x, 10), (x + 16, 10)], f"line {line.kind}"))
        parts.append(svg_text(x + 20, 14, line.name, "", "start", 11))
    for line in lines:
        parts += [svg_line([place(*point.at) for point in piece], f"line {line.kind}") for piece in _pieces(line)]
        if line.size is not None or len(line.points) == 1:  # a line of one point would not be seen
            finite = (point for point in line.points if math.isfinite(point.at[1]))
            parts += [point.draw(*place(*point.at), line.size or 3) for point in finite]
    return svg(width, height, label, "lines", parts)


def _pieces(line: Line) -> Iterable[list[Point]]:
    piece: list[Point] = []
    for point in line.points:
        if math.isfinite(point.at[1]):
            piece.append(point)
        elif piece:
            yield piece
            piece = []
    if piece:
        yield piece


# Roofline: both axes logarithmic with whole decades.
_WIDTH, _HEIGHT = 720.0, 460.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 92.0, 34.0, 40.0, 64.0  # margins
_LETTER, _LINE = 12.0, 24.0  # room for a letter and a line at the largest size of text, that of a phone


def roofline(points: Sequence[Point], peaks: Mapping[str, Place], across: str, up: str, label: str) -> str:
    """Points under peaks, the later above the earlier. ``peaks``: by name the corner of each, where a slope from the
    left becomes flat; ``across`` and ``up``: what the axes are."""
    xs, ys = zip(*(point.at for point in points), *peaks.values(), strict=True)
    x_low, x_high = _decades(xs, 0.0)
    y_low, y_high = _decades(ys, 0.1)
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT

    def place(x: float, y: float) -> Place:
        along = (math.log10(x) - x_low) / (x_high - x_low)
        return _LEFT + along * (right - _LEFT), bottom - (math.log10(y) - y_low) / (y_high - y_low) * (bottom - _TOP)

    parts = []
    for exponent in range(x_low, x_high + 1):
        x, _ = place(10.0**exponent, 10.0**y_low)
        parts.append(svg_line([(x, _TOP), (x, bottom)], "grid"))
        parts.append(svg_text(x, bottom + 24, f"{10.0**exponent:g}", "note", "middle", None))
    for exponent in range(y_low, y_high + 1):
        _, y = place(10.0**x_low, 10.0**exponent)
        parts.append(svg_line([(_LEFT, y), (right, y)], "grid"))
        parts.append(svg_text(_LEFT - 8, y + 5, f"{10.0**exponent:g}", "note", "end", None))
    parts.append(svg_text((_LEFT + right) / 2, _HEIGHT - 8, across, "note", "middle", None))
    parts.append(svg_text(2, 18, up, "note", "start", None))
    for name, (ridge, top) in peaks.items():
        start = max(10.0**x_low, 10.0**y_low * ridge / top)  # cut to the plot
        corners = [(start, start * top / ridge), (ridge, top), (10.0**x_high, top)]
        parts.append(svg_line([place(*corner) for corner in corners], "peak"))
        parts.append(svg_text(right - 4, place(ridge, top)[1] - 8, name, "", "end", None))
    places = [place(*point.at) for point in points]
    parts += [point.draw(*at) for point, at in zip(points, places, strict=True)]
    return svg(_WIDTH, _HEIGHT, label, "roofline", [*parts, *_names(points, places)])


def _decades(values: Iterable[float], room: float) -> tuple[int, int]:
    known = [math.log10(value) for value in values]
    low, high = math.floor(min(known)), math.ceil(max(known) + room)
    return low, max(high, low + 1)


def _names(points: Sequence[Point], places: Sequence[Place]) -> Iterable[str]:
    """Each name beside a point of its own, where it covers neither a point nor another name."""
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y in places]
    for name in dict.fromkeys(point.name for point in points):
        own = [at for point, at in zip(points, places, strict=True) if point.name == name and point.named]
        for box in (box for x, y in sorted(own) for box in _boxes(x, y, len(name) * _LETTER)):
            if not any(box[0] < o[2] and o[0] < box[2] and box[1] < o[3] and o[1] < box[3] for o in taken):
                taken.append(box)
                yield svg_text(box[0], box[3] - 7, name, "", "start", None)
                break


def _boxes(x: float, y: float, width: float) -> Iterable[Box]:
    """Places for a name of this width beside a point, inside the plot: right, left, below, above."""
    for left, middle in ((x + 9, y), (x - 9 - width, y), (x - width / 2, y + 21), (x - width / 2, y - 21)):
        if left > _LEFT and left + width < _WIDTH - _RIGHT and _TOP + 20 < middle < _HEIGHT - _BOTTOM - 12:
            yield left, middle - _LINE / 2, left + width, middle + _LINE / 2
