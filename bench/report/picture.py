"""A picture for the README: bars of ours against peers, the most important cases of one machine."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

from bench.report import svg
from bench.report.bars import STEP, Bar, bars, direction, one
from bench.report.cases import Case, newest
from bench.report.head import NO_GPU
from bench.report.markdown import Line, lines
from bench.report.rows import Machine
from bench.report.words import dates, listed, versions
from bench.shapes import SIZES
from bench.store import Row, StoreError

WIDTH, MARGIN, GAP = 860.0, 24.0, 36.0
PANEL = (WIDTH - 2 * MARGIN - GAP) / 2
_HEAD, _TITLE, _BELOW, _MOST = 58.0, 34.0, 22.0, 6  # heights; bars in a panel
# It has a background of its own, so it reads the same on a light and on a dark page.
_STYLE = """
text { fill: #1c2128; font-family: system-ui, sans-serif; } .note { fill: #57606a; }
.back { fill: #fff; stroke: #d8dee4; }
.ours { fill: #0b5bd3; } text.ours { font-weight: 600; } .again { fill: #8db8f2; } .peer { fill: #b3bcc6; }
.whisker { stroke: #1c2128; stroke-width: 1.3; } .title { font-weight: 600; }
"""
Panel = tuple[Line, list[Bar]]


def picture(by_machine: Mapping[Machine, Sequence[Row]]) -> str:
    """A whole SVG file, of the first machine (a GPU where there is one) with something to compare.

    Raises:
        StoreError: no machine has a time of ours beside one of anything else.
    """
    for machine, rows in by_machine.items():
        panels = _panels(newest(rows))
        if panels:
            return _document(machine, panels)
    raise StoreError("--svg: no row of ours stands beside one of another provider, so there is nothing to draw")


def _panels(cases: Sequence[Case]) -> list[Panel]:
    """Of each operation the most important case, and of whole steps the longest."""
    first: dict[str, Panel] = {}
    for line in sorted(lines(cases), key=_importance):
        found = bars(line.case.modes[line.mode])
        if line.case.key[1] not in first and len(_others(found)) > 0:
            first[line.case.key[1]] = line, _fastest(found)
    return list(first.values())


def _importance(line: Line) -> tuple[bool, int, float]:
    """Shapes that have a target first, in the order of `bench.shapes`; steps last; the longer before the shorter."""
    suite, op, case, *_ = line.case.key
    targets = [(shape.op, shape.name) for shape in (*SIZES["gpu"], *SIZES["cpu"]) if shape.priority == 1]
    place = targets.index((op, case)) if (op, case) in targets else len(targets)
    return suite == "steps", place, -float(line.ours["ms"])


def _others(found: Sequence[Bar]) -> list[Bar]:
    return [bar for bar in found if bar.kind != "ours" and not bar.name.endswith(" again")]


def _fastest(found: Sequence[Bar]) -> list[Bar]:
    """Ours, then the others from the best on, as many as fit."""
    more = found[0].unit != "ms"  # of rates, the larger is better
    others = sorted(_others(found), key=lambda bar: -bar.value if more else bar.value)
    return [bar for bar in found if bar.kind == "ours"] + others[: _MOST - 1]


def _document(machine: Machine, panels: Sequence[Panel]) -> str:
    parts, bottom = [], _HEAD
    for place in range(0, len(panels), 2):
        pair = panels[place : place + 2]
        for side, panel in enumerate(pair):
            parts += _panel(panel, MARGIN + side * (PANEL + GAP), bottom)
        bottom += _TITLE + STEP * max(len(found) for _, found in pair) + _BELOW
    words = _caption(machine, panels)
    parts += [svg.text(MARGIN, bottom + 16 + 17 * place, text, "note") for place, text in enumerate(words)]
    height = bottom + 17 * len(words) + 24
    return _frame(height, parts, " ".join(words))


def _frame(height: float, parts: Sequence[str], label: str) -> str:
    back = f'<rect x="0.5" y="0.5" width="{WIDTH - 1:g}" height="{height - 1:g}" rx="10" class="back"/>'
    title = svg.text(MARGIN, 36, "Ours against what one would use instead", "title", size=18)
    drawn = svg.picture(WIDTH, height, label, "report", [f"<style>{_STYLE}</style>", back, title, *parts])
    return drawn.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1) + "\n"


def _panel(panel: Panel, left: float, above: float) -> list[str]:
    line, found = panel
    top = max(max(bar.value, bar.high or 0) for bar in found)
    parts = [
        svg.text(left, above + 12, line.case.name, "title", size=13.5),
        svg.text(left, above + 28, f"{line.mode}; {direction(found)}", "note"),
    ]
    rows = (one(bar, top, PANEL, left, above + _TITLE + STEP * place) for place, bar in enumerate(found))
    return [*parts, *rows]


def _caption(machine: Machine, panels: Sequence[Panel]) -> list[str]:
    cases = [line.case for line, _ in panels]
    rows = [row for case in cases for row in case.rows]
    text = f"{machine.name}; {versions(rows)}; commit {listed(case.revision.name for case in cases)}; {dates(rows)}. "
    if any(case.revision.dirty for case in cases):
        text += "A star: with changes that are in no commit. "
    text += "Whiskers: 20th to 80th percentile. Pale: ours in another way (eager PyTorch, torch.compile)."
    return textwrap.wrap(text + ("" if machine.cuda else f" {NO_GPU}"), 128)
