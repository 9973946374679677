"""What the charts of the report show: the bars of a case, the roofline of a machine, the history of a case."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from bench.report import data, words
from bench.report.data import Measured, Revision
from vatt import charts
from vatt.charts import Bar, Line, Point
from vatt.html import figure, paragraph, plots
from vatt.results import Row, number


def bars(rows: Mapping[str, Row]) -> list[Bar]:
    """Of one case and mode by provider. In samples/s where all have a rate, else in ms; rows with neither are left
    out here and listed as failures."""
    rates = all(row["rate"] for row in rows.values() if data.timed(row))
    values = {name: value for name, row in rows.items() if (value := number(row, "rate" if rates else "ms"))}
    ours = data.primary({name: rows[name] for name in values})
    found = []
    for name, value in values.items():
        row = rows[name]
        low, high, ms = number(row, "ms_p20"), number(row, "ms_p80"), number(row, "ms")
        if low is None or high is None or ms is None:
            low = high = None
        elif rates:  # work by time, so its percentiles follow from those of the time
            low, high = value * ms / high, value * ms / low
        ratio = "" if ours is None or name == ours else f", {words.short(value / values[ours])}x of ours"
        figure = f"{words.short(value)} {unit(rows)}{ratio}"
        shown = f"ours ({name})" if name == ours and not name.startswith("ours") else name
        found.append(Bar(shown, figure, value, low, high, kind_of(name, ours), f"{name}: {tooltip(row)}"))
    return found


def unit(rows: Mapping[str, Row]) -> str:
    """Of the bars of these rows."""
    known = [row for row in rows.values() if data.timed(row)]
    return (known[0]["unit"] or "a second") if all(row["rate"] for row in known) else "ms"


def direction(rows: Mapping[str, Row]) -> str:
    """The unit of the bars, and which of them are good."""
    return f"{unit(rows)}, {'shorter' if unit(rows) == 'ms' else 'longer'} is better"


def kind_of(name: str, ours: str | None) -> str:
    """The CSS class: "ours" for what the others are compared with, "again" for the rest of ours, else "baseline"."""
    if name == ours:
        return "ours"
    return "again" if data.is_ours(name) or data.role(name) == "eager" else "baseline"


def tooltip(row: Row) -> str:
    """A row in a few words."""
    parts = [f"{row['provider']} ({data.ROLES[data.role(row['provider'])]}), {row['mode']}"]
    spread = f" (20th to 80th percentile: {words.spread(row)})" if words.spread(row) else ""
    units = {"ms": f"ms{spread}", "tflops": "TFLOP/s", "gbps": "GB/s", "peak_mib": "MiB beyond the inputs"}
    figures = {unit: number(row, name) for name, unit in units.items()}
    parts += [f"{words.short(value)} {unit}" for unit, value in figures.items() if value is not None]
    return ", ".join([*parts, *([row["note"]] if row["note"] else ())])


def roofline(cases: Sequence[Measured]) -> str:
    """Operations a byte against the rate that was reached, under the device's peaks, as HTML with what it leaves out in
    words; words alone where no row has a place in it."""
    by_case = {case.key: list(_points(case)) for case in cases}
    points = [point for found in by_case.values() for point in found]
    if not points:
        return paragraph("No row names both its operations and its bytes, so there is no roofline.", "soft")
    # Cases with figures and without a point; where no case of an operation has one, the operation.
    ops = {point.name for point in points}
    empty = (case for case in cases if case.modes and not by_case[case.key])
    missing = words.listed(case.name if case.key[1] in ops else case.key[1] for case in empty)
    left_out = f"Without a point, because their rows name no operations or no bytes: {missing}." if missing else ""
    peaks: dict[str, tuple[float, float]] = {}  # by type of number, of its newest row: TFLOP/s of a product, GB/s
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
    points.sort(key=lambda point: ("baseline", "again", "ours").index(point.kind))  # ours on top
    corners = {dtype: (1e3 * tflops / gbps, tflops) for dtype, (tflops, gbps) in peaks.items()}
    label = f"Roofline with {len(points)} measured calls"
    drawn = charts.roofline(points, corners, "operations a byte", "TFLOP/s", label)
    return figure("", "", drawn) + paragraph(under, "soft") + (paragraph(left_out, "soft") if left_out else "")


def _points(case: Measured) -> Iterable[Point]:
    for mode, of in case.modes.items():
        ours = data.primary(of)
        for name, row in of.items():
            tflops, gbps = number(row, "tflops"), number(row, "gbps")
            if tflops and gbps and data.role(name) != "again":
                title = f"{case.name} at {case.revision.name}: {tooltip(row)}"
                at = 1e3 * tflops / gbps, tflops
                yield Point(at, kind_of(name, ours), title, mode != "forward", case.key[1], named=name == ours)


def history(rows: Sequence[Row]) -> str:
    """Ours and eager PyTorch over the commits that were measured on one machine: small line charts as HTML, or words
    where there is nothing to compare."""
    compared = [row for row in rows if row["suite"] in data.COMPARED]
    timed = (row for row in compared if row["ms"])
    groups = data.grouped(timed, lambda row: (data.case_key(row), row["mode"], row["torch"]))
    found = [chart for group, of in groups.items() if (chart := _over_time(*group, of))]
    if not found:
        commits = len({row["commit"] for row in compared})
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
    lines = []
    for series, kind, size in ((eager, "baseline", 3), (ours, "ours", 4.5)):
        points = []
        for place, state in enumerate(states):
            if state in series:
                ms, row = float(series[state]["ms"]), series[state]
                title = f"{state.name}: {row['provider']} {words.short(ms)} ms, {row['time']}"
                points.append(Point((place, ms), f"{kind} hollow" if state.dirty else kind, title))
        lines.append(Line(points, kind, size=size))
    # Names that fit: the first, the last, and as many between as leave room.
    every, last = max(1, -(-len(states) // 4)), len(states) - 1
    shown = (place for place in range(len(states)) if place == last or (not place % every and last - place >= every))
    ticks = {place: states[place].name for place in shown}
    title = f"{data.case_name(key)}, {mode}"
    label = f"{title}, over {len(states)} states of the code"
    return figure(title, f"torch {torch}", charts.line_chart(lines, ticks, "ms by commit", label))
