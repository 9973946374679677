"""Horizontal bars: the providers of one case and mode, ours highlighted, each with its ratio to ours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from bench.report import svg
from bench.report.providers import is_again, is_compiled, is_eager, is_ours, primary
from bench.report.words import short, spread
from bench.store import Row, number

WIDTH, STEP = 340.0, 34.0  # units of a chart and of one bar in it
_NAME, _THICK = 24, 9.0  # letters of a name that fit, thickness of a bar


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
        text = f"{short(self.value)} {self.unit}"
        return text if self.ratio is None else f"{text}, {short(self.ratio)}x of ours"


def bars(rows: Mapping[str, Row]) -> list[Bar]:
    """Of one case and mode by provider. In samples/s where all have a rate, else in ms; rows with neither are left
    out here and listed as failures."""
    known = {name: row for name, row in rows.items() if row["ms"] or row["rate"]}
    rates = all(row["rate"] for row in known.values())
    known = {name: row for name, row in known.items() if rates or row["ms"]}
    ours = primary(known)
    base = None if ours is None else _value(known[ours], rates)
    return [_bar(name, row, rates, base, name == ours) for name, row in known.items()]


def _value(row: Row, rates: bool) -> float:
    return float(row["rate" if rates else "ms"])


def _bar(name: str, row: Row, rates: bool, base: float | None, first: bool) -> Bar:
    value = _value(row, rates)
    low, high = _spread(row, rates)
    unit = (row["unit"] or "a second") if rates else "ms"
    ratio = None if base is None or first else value / base
    return Bar(name, value, low, high, ratio, unit, kind_of(name, first), tooltip(row))


def _spread(row: Row, rates: bool) -> tuple[float | None, float | None]:
    low, high, ms = number(row, "ms_p20"), number(row, "ms_p80"), number(row, "ms")
    if low is None or high is None:
        return None, None
    if not rates:
        return low, high
    if ms is None:
        return None, None
    work = float(row["rate"]) * ms  # the rate is work by time, so its percentiles follow from those of the time
    return work / high, work / low


def kind_of(name: str, first: bool) -> str:
    """The CSS class: "ours" for what the others are compared with, "again" for the rest of ours, else "peer"."""
    if first:
        return "ours"
    return "again" if is_ours(name) or is_eager(name) else "peer"


def role(name: str) -> str:
    """What a provider is, in words."""
    if is_again(name):
        return "ours, timed a second time"
    if is_eager(name):
        return "ours in eager PyTorch"
    if is_ours(name):
        return "ours through torch.compile" if is_compiled(name) else "ours"
    return "compiled PyTorch" if is_compiled(name) else "a peer"


def direction(found: Sequence[Bar]) -> str:
    """The unit of the bars, and which of them are good."""
    unit = found[0].unit
    return "ms, shorter is better" if unit == "ms" else f"{unit}, longer is better"


def tooltip(row: Row) -> str:
    """A row in a few words."""
    parts = [f"{row['provider']} ({role(row['provider'])}), {row['mode']}"]
    if row["ms"]:
        times = f"{short(float(row['ms']))} ms"
        parts.append(f"{times} (20th to 80th percentile: {spread(row)})" if spread(row) else times)
    for name, unit in (("tflops", "TFLOP/s"), ("gbps", "GB/s"), ("peak_mib", "MiB beyond the inputs")):
        value = number(row, name)
        parts += [] if value is None else [f"{short(value)} {unit}"]
    if row["note"]:
        parts.append(row["note"])
    return ", ".join(parts)


def chart(found: Sequence[Bar], label: str) -> str:
    """An inline SVG, `WIDTH` wide."""
    top = max(max(bar.value, bar.high or 0) for bar in found)
    return svg.picture(WIDTH, STEP * len(found) + 4, label, "bars", _rows(found, top, WIDTH, 0.0, 0.0))


def _rows(found: Iterable[Bar], top: float, width: float, left: float, above: float) -> Iterable[str]:
    for place, bar in enumerate(found):
        yield one(bar, top, width, left, above + STEP * place)


def one(bar: Bar, top: float, width: float, left: float, above: float) -> str:
    """A bar with its words above it; ``top`` is the value of the whole width."""
    name = f"ours ({bar.name})" if bar.kind == "ours" and not bar.name.startswith("ours") else bar.name
    name = name if len(name) <= _NAME else name[: _NAME - 1] + "…"
    scale = (width - 4) / top
    middle = above + 21 + _THICK / 2
    parts = [
        svg.text(left, above + 14, name, bar.kind if bar.kind == "ours" else ""),
        svg.text(left + width - 2, above + 14, bar.words, "note", "end"),
        svg.rectangle(left, above + 21, max(bar.value * scale, 1.0), _THICK, bar.kind),
    ]
    if bar.low is not None and bar.high is not None:
        low, high = left + bar.low * scale, left + bar.high * scale
        parts.append(svg.line(low, middle, high, middle, "whisker"))
        parts += [svg.line(x, middle - 4, x, middle + 4, "whisker") for x in (low, high)]
    return svg.group(parts, f"{bar.name}: {bar.title}")
