"""The drawings of the report: bars of one case, the roofline of a machine, the history of a case."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from bench.report import data, words
from bench.report.data import Case, Revision
from bench.store import Row, number
from vatt.html import figure, paragraph, plots, svg, svg_circle, svg_group, svg_line, svg_rectangle, svg_text

BAR = 34.0  # height of one bar with its words
_SIDE, _NAME, _THICK = 340.0, 24, 9.0  # width of a small chart, letters of a name that fit, thickness of a bar


@dataclass(frozen=True)
class Bar:
    """``low`` and ``high``: 20th and 80th percentile, in the unit of ``value``, or both None."""

    name: str
    value: float
    low: float | None
    high: float | None
    ratio: float | None
    unit: str
    kind: str
    title: str

    @property
    def words(self) -> str:
        """The figure and its ratio to ours."""
        text = f"{words.short(self.value)} {self.unit}"
        return text if self.ratio is None else f"{text}, {words.short(self.ratio)}x of ours"


def bars(rows: Mapping[str, Row]) -> list[Bar]:
    """Of one case and mode by provider. In samples/s where all have a rate, else in ms; rows with neither are left
    out here and listed as failures."""
    rates = all(row["rate"] for row in rows.values() if data.timed(row))
    values = {name: value for name, row in rows.items() if (value := number(row, "rate" if rates else "ms"))}
    ours = data.primary(values)
    found = []
    for name, value in values.items():
        row = rows[name]
        low, high, ms = number(row, "ms_p20"), number(row, "ms_p80"), number(row, "ms")
        if low is None or high is None or ms is None:
            low = high = None
        elif rates:  # work by time, so its percentiles follow from those of the time
            low, high = value * ms / high, value * ms / low
        ratio = None if ours is None or name == ours else value / values[ours]
        unit = (row["unit"] or "a second") if rates else "ms"
        found.append(Bar(name, value, low, high, ratio, unit, kind_of(name, ours), tooltip(row)))
    return found


def kind_of(name: str, ours: str | None) -> str:
    """The CSS class: "ours" for what the others are compared with, "again" for the rest of ours, else "baseline"."""
    if name == ours:
        return "ours"
    return "again" if data.is_ours(name) or data.role(name) == "eager" else "baseline"


def direction(found: Sequence[Bar]) -> str:
    """The unit of the bars, and which of them are good."""
    unit = found[0].unit
    return "ms, shorter is better" if unit == "ms" else f"{unit}, longer is better"


def tooltip(row: Row) -> str:
    """A row in a few words."""
    parts = [f"{row['provider']} ({data.ROLES[data.role(row['provider'])]}), {row['mode']}"]
    spread = f" (20th to 80th percentile: {words.spread(row)})" if words.spread(row) else ""
    units = {"ms": f"ms{spread}", "tflops": "TFLOP/s", "gbps": "GB/s", "peak_mib": "MiB beyond the inputs"}
    figures = {unit: number(row, name) for name, unit in units.items()}
    parts += [f"{words.short(value)} {unit}" for unit, value in figures.items() if value is not None]
    return ", ".join([*parts, *([row["note"]] if row["note"] else ())])


def bar_chart(found: Sequence[Bar], label: str) -> str:
    """Horizontal bars as an inline SVG."""
    return svg(_SIDE, BAR * len(found) + 4, label, "bars", draw_bars(found, _SIDE, 0.0, 0.0))


def draw_bars(found: Sequence[Bar], width: float, left: float, above: float) -> Iterable[str]:
    """Bars below one another, each with its words above it."""
    scale = (width - 4) / max(max(bar.value, bar.high or 0) for bar in found)
    for place, bar in enumerate(found):
        top = above + BAR * place
        name = f"ours ({bar.name})" if bar.kind == "ours" and not bar.name.startswith("ours") else bar.name
        name = name if len(name) <= _NAME else name[: _NAME - 1] + "…"
        parts = [
            svg_text(left, top + 14, name, bar.kind if bar.kind == "ours" else ""),
            svg_text(left + width - 2, top + 14, bar.words, "note", "end"),
            svg_rectangle(left, top + 21, max(bar.value * scale, 1.0), _THICK, bar.kind),
        ]
        if bar.low is not None and bar.high is not None:
            low, high, middle = left + bar.low * scale, left + bar.high * scale, top + 21 + _THICK / 2
            parts.append(svg_line([(low, middle), (high, middle)], "whisker"))
            parts += [svg_line([(x, middle - 4), (x, middle + 4)], "whisker") for x in (low, high)]
        yield svg_group(parts, f"{bar.name}: {bar.title}")


# Roofline: operations a byte against the rate that was reached, under the device's peaks.
_WIDTH, _HEIGHT = 720.0, 460.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 92.0, 34.0, 40.0, 64.0  # margins
_LETTER, _LINE = 12.0, 24.0  # room for a letter and a line at the largest size of text, that of a phone

Place = tuple[float, float]
Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class Point:
    """``at``: operations a byte and TFLOP/s; ``kind``: CSS class; ``square``: with the backward pass."""

    at: Place
    kind: str
    square: bool
    op: str
    title: str


@dataclass(frozen=True)
class Scale:
    """From values to places, both axes logarithmic with whole decades (first and last exponent)."""

    x: tuple[int, int]
    y: tuple[int, int]

    def place(self, intensity: float, rate: float) -> Place:
        across = (math.log10(intensity) - self.x[0]) / (self.x[1] - self.x[0])
        up = (math.log10(rate) - self.y[0]) / (self.y[1] - self.y[0])
        return _LEFT + across * (_WIDTH - _LEFT - _RIGHT), _HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM)


def roofline(cases: Sequence[Case]) -> str:
    """The plot as HTML with what it leaves out in words; words alone where no row has a place in it."""
    by_case = {case.key: list(_points(case)) for case in cases}
    points = [point for found in by_case.values() for point in found]
    if not points:
        return paragraph("No row names both its operations and its bytes, so there is no roofline.", "soft")
    # Cases with figures and without a point; where no case of an operation has one, the operation.
    ops = {point.op for point in points}
    empty = (case for case in cases if case.modes and not by_case[case.key])
    missing = words.listed(case.name if case.key[1] in ops else case.key[1] for case in empty)
    left_out = f"Without a point, because their rows name no operations or no bytes: {missing}." if missing else ""
    peaks: dict[str, Place] = {}  # by type of number, those of its newest row: TFLOP/s of a product, GB/s of a copy
    for row in sorted((row for case in cases for row in case.rows), key=lambda row: row["time"]):
        if row["roof_tflops"] and row["roof_gbps"] and row["gbps"]:
            peaks[row["dtype"]] = float(row["roof_tflops"]), float(row["roof_gbps"])
    if not peaks:
        left_out = f"No row names the peaks of this device. {left_out}"
    under = "Circles: forward; squares: with the backward pass. Full colour: ours; pale: ours otherwise; grey: others. "
    under += "The pointer on a mark names it."
    for dtype, (tflops, gbps) in peaks.items():
        under += f" Device peak, {dtype}: {words.short(tflops)} TFLOP/s (a large product) "
        under += f"and {words.short(gbps)} GB/s (a copy)."
    drawn = svg(_WIDTH, _HEIGHT, f"Roofline with {len(points)} measured calls", "roofline", _draw(points, peaks))
    return figure("", "", drawn) + paragraph(under, "soft") + (paragraph(left_out, "soft") if left_out else "")


def _points(case: Case) -> Iterable[Point]:
    for mode, of in case.modes.items():
        ours = data.primary(of)
        for name, row in of.items():
            tflops, gbps = number(row, "tflops"), number(row, "gbps")
            if tflops and gbps and data.role(name) != "again":
                title = f"{case.name} at {case.revision.name}: {tooltip(row)}"
                at = 1e3 * tflops / gbps, tflops
                yield Point(at, kind_of(name, ours), mode != "forward", case.key[1], title)


def _decades(values: Iterable[float], room: float) -> tuple[int, int]:
    known = [math.log10(value) for value in values]
    low, high = math.floor(min(known)), math.ceil(max(known) + room)
    return low, max(high, low + 1)


def _draw(points: Sequence[Point], peaks: Mapping[str, Place]) -> Iterable[str]:
    corners = {dtype: (1e3 * tflops / gbps, tflops) for dtype, (tflops, gbps) in peaks.items()}
    shown = [*(point.at for point in points), *corners.values()]
    scale = Scale(_decades((x for x, _ in shown), 0.0), _decades((y for _, y in shown), 0.1))
    yield from _axes(scale)
    for dtype, (ridge, tflops) in corners.items():
        # The slope of the memory up to the ridge, and from there the flat peak of the products; cut to the plot.
        slope, right = tflops / ridge, 10.0 ** scale.x[1]
        start = max(10.0 ** scale.x[0], 10.0 ** scale.y[0] / slope)
        line = [(start, start * slope), (ridge, tflops), (right, tflops)]
        yield svg_line([scale.place(*corner) for corner in line], "peak")
        x, y = scale.place(right, tflops)
        yield svg_text(x - 4, y - 8, dtype, "", "end", None)
    for point in sorted(points, key=lambda point: ("baseline", "again", "ours").index(point.kind)):  # ours on top
        x, y = scale.place(*point.at)
        if point.square:
            yield svg_rectangle(x - 5, y - 5, 10, 10, point.kind, point.title, round=0)
        else:
            yield svg_circle(x, y, 5, point.kind, point.title)
    yield from _names(points, [scale.place(*point.at) for point in points])


def _axes(scale: Scale) -> Iterable[str]:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    for exponent in range(scale.x[0], scale.x[1] + 1):
        x, _ = scale.place(10.0**exponent, 10.0 ** scale.y[0])
        yield svg_line([(x, _TOP), (x, bottom)], "grid")
        yield svg_text(x, bottom + 24, f"{10.0**exponent:g}", "note", "middle", None)
    for exponent in range(scale.y[0], scale.y[1] + 1):
        _, y = scale.place(10.0 ** scale.x[0], 10.0**exponent)
        yield svg_line([(_LEFT, y), (right, y)], "grid")
        yield svg_text(_LEFT - 8, y + 5, f"{10.0**exponent:g}", "note", "end", None)
    yield svg_text((_LEFT + right) / 2, _HEIGHT - 8, "operations a byte", "note", "middle", None)
    yield svg_text(2, 18, "TFLOP/s", "note", "start", None)


def _names(points: Sequence[Point], places: Sequence[Place]) -> Iterable[str]:
    """The name of each operation beside a point of ours, where it covers neither a point nor another name."""
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y in places]
    for op in dict.fromkeys(point.op for point in points):
        own = [place for point, place in zip(points, places, strict=True) if point.op == op and point.kind == "ours"]
        for box in (box for x, y in sorted(own) for box in _boxes(x, y, len(op) * _LETTER)):
            if not any(box[0] < o[2] and o[0] < box[2] and box[1] < o[3] and o[1] < box[3] for o in taken):
                taken.append(box)
                yield svg_text(box[0], box[3] - 7, op, "", "start", None)
                break


def _boxes(x: float, y: float, width: float) -> Iterable[Box]:
    """Places for a name of this width beside a point, inside the plot: right, left, below, above."""
    for left, middle in ((x + 9, y), (x - 9 - width, y), (x - width / 2, y + 21), (x - width / 2, y - 21)):
        if left > _LEFT and left + width < _WIDTH - _RIGHT and _TOP + 20 < middle < _HEIGHT - _BOTTOM - 12:
            yield left, middle - _LINE / 2, left + width, middle + _LINE / 2


# History: ours and eager PyTorch over the commits that were measured, case by case.
_TALL, _AXIS, _FOOT, _EDGE = 170.0, 54.0, 40.0, 14.0  # height; margins on the left, below, elsewhere
Series = dict[Revision, Row]


def history(rows: Sequence[Row]) -> str:
    """Small line charts of one machine as HTML, or words where there is nothing to compare."""
    groups: dict[tuple[data.Key, str, str], list[Row]] = {}
    for row in rows:
        if row["suite"] in data.COMPARED and row["ms"]:
            groups.setdefault((data.case_key(row), row["mode"], row["torch"]), []).append(row)
    found = [chart for group, of in groups.items() if (chart := _over_time(*group, of))]
    if not found:
        commits = len({row["commit"] for row in rows if row["suite"] in data.COMPARED})
        if commits < 2:
            return paragraph("One commit only was measured here, so there is no history.", "soft")
        return paragraph(f"{commits} commits were measured, but no case at two of them with the same torch.", "soft")
    how = "Milliseconds at each commit, in the order of first measurement. Full colour: ours; grey: eager PyTorch. "
    how += "Hollow, with a star: the files had changes that are in no commit. A drift of the machine moves both lines."
    return paragraph(how, "soft") + plots(found)


def _over_time(key: data.Key, mode: str, torch: str, rows: Sequence[Row]) -> str:
    by_state: dict[Revision, dict[str, Row]] = {}
    for row in rows:  # the newest of each provider at each state of the code
        by_state.setdefault(data.revision(row), {})[row["provider"]] = row
    ours = {state: of[first] for state, of in by_state.items() if (first := data.primary(of)) is not None}
    eager = {state: row for state, of in by_state.items() for name, row in of.items() if data.role(name) == "eager"}
    if len({state.commit for state in ours}) < 2:
        return ""
    states = [state for state in data.revisions(rows) if state in ours or state in eager]
    title = f"{data.case_name(key)}, {mode}"
    label = f"{title}, over {len(states)} states of the code"
    return figure(title, f"torch {torch}", svg(_SIDE, _TALL, label, "bars", _lines(states, ours, eager)))


def _lines(states: Sequence[Revision], ours: Series, eager: Series) -> Iterable[str]:
    most = max(float(row["ms"]) for row in (*ours.values(), *eager.values())) * 1.08
    step = (_SIDE - _AXIS - _EDGE) / max(len(states) - 1, 1)

    def height(ms: float) -> float:
        return _TALL - _FOOT - ms / most * (_TALL - _EDGE - _FOOT)

    for value in (0.0, most / 2, most):
        yield svg_line([(_AXIS, height(value)), (_SIDE - _EDGE, height(value))], "grid")
        yield svg_text(_AXIS - 6, height(value) + 4, words.short(value), "note", "end", 11)
    # Names that fit: the first, the last, and as many between as leave room.
    every, last = max(1, -(-len(states) // 4)), len(states) - 1
    for place, state in enumerate(states):
        if place == last or (place % every == 0 and last - place >= every):
            anchor = "end" if place == last else "start" if place == 0 else "middle"
            yield svg_text(_AXIS + step * place, _TALL - 20, state.name, "note", anchor, 11)
    yield svg_text(_AXIS, _TALL - 4, "ms by commit", "note", "start", 11)
    for series, kind, radius in ((eager, "baseline", 3), (ours, "ours", 4.5)):
        points = {s: (_AXIS + step * i, height(float(series[s]["ms"]))) for i, s in enumerate(states) if s in series}
        yield svg_line(points.values(), f"line {kind}")
        for state, (x, y) in points.items():
            row = series[state]
            title = f"{state.name}: {row['provider']} {words.short(float(row['ms']))} ms, {row['time']}"
            yield svg_circle(x, y, radius, f"{kind} hollow" if state.dirty else kind, title)
