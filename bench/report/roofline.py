"""The roofline of a machine: operations a byte against the rate that was reached, under what the machine allows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.report import svg
from bench.report.bars import kind_of, tooltip
from bench.report.cases import Case
from bench.report.html import figure, paragraph
from bench.report.providers import is_again, primary
from bench.report.words import listed, short
from bench.store import Row, number

WIDTH, HEIGHT = 720.0, 460.0
LEFT, RIGHT, TOP, BOTTOM = 92.0, 34.0, 40.0, 64.0
_LETTER, _LINE = 12.0, 24.0  # room for a letter and a line at the largest size of text, that of a phone

Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class Point:
    """``intensity``: operations a byte; ``rate``: TFLOP/s; ``kind``: CSS class; ``square``: with the backward pass."""

    intensity: float
    rate: float
    kind: str
    square: bool
    op: str
    title: str


@dataclass(frozen=True)
class Roof:
    """Of one type of number: TFLOP/s of a large product, GB/s of a copy."""

    dtype: str
    tflops: float
    gbps: float


@dataclass(frozen=True)
class Scale:
    """From values to places, both axes logarithmic with whole decades."""

    x: tuple[int, int]
    y: tuple[int, int]

    def place(self, intensity: float, rate: float) -> tuple[float, float]:
        across = (math.log10(intensity) - self.x[0]) / (self.x[1] - self.x[0])
        up = (math.log10(rate) - self.y[0]) / (self.y[1] - self.y[0])
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)


def roofline(cases: Sequence[Case]) -> str:
    """The plot as HTML with what it leaves out in words; words alone where no row has a place in it."""
    points = list(_points(cases))
    roofs = _roofs(cases)
    missing = _missing(cases, {point.op for point in points})
    left_out = f"Without a point, because their rows name no operations or no bytes: {missing}." if missing else ""
    if not points:
        return paragraph("No row names both its operations and its bytes, so there is no roofline.", "soft")
    if not roofs:
        left_out = f"No row names the roofs of this machine. {left_out}"
    label = f"Roofline with {len(points)} measured calls"
    drawn = _draw(points, roofs, label)
    under = "Circles: forward; squares: with the backward pass. Full colour: ours; pale: ours otherwise; grey: others. "
    under += "The pointer on a mark names it. "
    under += " ".join(
        f"Roof, {roof.dtype}: {short(roof.tflops)} TFLOP/s (a large product) and {short(roof.gbps)} GB/s (a copy)."
        for roof in roofs
    )
    return figure("", "", drawn) + paragraph(under, "soft") + (paragraph(left_out, "soft") if left_out else "")


def _missing(cases: Iterable[Case], ops: set[str]) -> str:
    """Cases with figures and without a point; where no case of an operation has one, the operation."""
    empty = (case for case in cases if case.modes and not any(True for _ in _points([case])))
    return listed(case.name if case.key[1] in ops else case.key[1] for case in empty)


def _points(cases: Iterable[Case]) -> Iterable[Point]:
    for case in cases:
        for mode, of in case.modes.items():
            ours = primary(of)
            for name, row in of.items():
                tflops, gbps = number(row, "tflops"), number(row, "gbps")
                if not tflops or not gbps or is_again(name):
                    continue
                title = f"{case.name} at {case.revision.name}: {tooltip(row)}"
                square = mode != "forward"
                yield Point(1e3 * tflops / gbps, tflops, kind_of(name, name == ours), square, case.key[1], title)


def _roofs(cases: Iterable[Case]) -> list[Roof]:
    """Of the newest row of each type of number."""
    found: dict[str, Row] = {}
    for row in sorted((row for case in cases for row in case.rows), key=lambda row: row["time"]):
        if row["roof_tflops"] and row["roof_gbps"] and row["gbps"]:
            found[row["dtype"]] = row
    return [Roof(name, float(row["roof_tflops"]), float(row["roof_gbps"])) for name, row in found.items()]


def _scale(points: Sequence[Point], roofs: Sequence[Roof]) -> Scale:
    across = [point.intensity for point in points] + [1e3 * roof.tflops / roof.gbps for roof in roofs]
    up = [point.rate for point in points] + [roof.tflops for roof in roofs]
    return Scale(_decades(across, 0.0), _decades(up, 0.1))


def _decades(values: Sequence[float], room: float) -> tuple[int, int]:
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)) + room)
    return low, max(high, low + 1)


def _draw(points: Sequence[Point], roofs: Sequence[Roof], label: str) -> str:
    scale = _scale(points, roofs)
    parts = [*_axes(scale)]
    for roof in roofs:
        parts += _roof(scale, roof)
    # Ours on top of the others.
    for point in sorted(points, key=lambda point: ("peer", "again", "ours").index(point.kind)):
        parts.append(svg.marker(*scale.place(point.intensity, point.rate), point.square, point.kind, point.title))
    return svg.picture(WIDTH, HEIGHT, label, "roofline", [*parts, *_names(scale, points)])


def _axes(scale: Scale) -> Iterable[str]:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    for exponent in range(scale.x[0], scale.x[1] + 1):
        x, _ = scale.place(10.0**exponent, 10.0 ** scale.y[0])
        yield svg.line(x, TOP, x, bottom, "grid")
        yield svg.text(x, bottom + 24, f"{10.0**exponent:g}", "note", "middle", None)
    for exponent in range(scale.y[0], scale.y[1] + 1):
        _, y = scale.place(10.0 ** scale.x[0], 10.0**exponent)
        yield svg.line(LEFT, y, right, y, "grid")
        yield svg.text(LEFT - 8, y + 5, f"{10.0**exponent:g}", "note", "end", None)
    yield svg.text((LEFT + right) / 2, HEIGHT - 8, "operations a byte", "note", "middle", None)
    yield svg.text(2, 18, "TFLOP/s", "note", "start", None)


def _roof(scale: Scale, roof: Roof) -> Iterable[str]:
    """The slope of the memory up to the ridge, and from there the products' flat roof; cut to the plot."""
    slope = roof.gbps * 1e-3  # TFLOP/s at one operation a byte
    left, right, floor = 10.0 ** scale.x[0], 10.0 ** scale.x[1], 10.0 ** scale.y[0]
    ridge = roof.tflops / slope
    start = max(left, floor / slope)
    corners = [(start, start * slope), (ridge, roof.tflops), (right, roof.tflops)]
    yield svg.path([scale.place(x, y) for x, y in corners], "roof")
    x, y = scale.place(right, roof.tflops)
    yield svg.text(x - 4, y - 8, roof.dtype, "", "end", None)


def _names(scale: Scale, points: Sequence[Point]) -> Iterable[str]:
    """The name of each operation beside a point of ours, where it covers neither a point nor another name."""
    places = [scale.place(point.intensity, point.rate) for point in points]
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y in places]
    for op in dict.fromkeys(point.op for point in points):
        wide = len(op) * _LETTER
        own = [place for point, place in zip(points, places, strict=True) if point.op == op and point.kind == "ours"]
        boxes = (box for x, y in sorted(own) for box in _boxes(x, y, wide))
        box = next((box for box in boxes if not any(_meet(box, other) for other in taken)), None)
        if box is not None:
            taken.append(box)
            yield svg.text(box[0], box[3] - 7, op, "", "start", None)


def _boxes(x: float, y: float, wide: float) -> Iterable[Box]:
    """Places for a name of this width beside a point, inside the plot: right, left, below, above."""
    for left, middle in ((x + 9, y), (x - 9 - wide, y), (x - wide / 2, y + 21), (x - wide / 2, y - 21)):
        if left > LEFT and left + wide < WIDTH - RIGHT and TOP + 20 < middle < HEIGHT - BOTTOM - 12:
            yield left, middle - _LINE / 2, left + wide, middle + _LINE / 2


def _meet(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
