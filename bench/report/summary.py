"""What a README shows of the rows: a Markdown table of ours beside the others, and a picture of the same bars."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from bench.cases import SIZES
from bench.cases.base import AUTO, COMPILE, OURS
from bench.report import data, words
from bench.report.charts import bars, direction, unit
from bench.report.data import Machine, Measured
from vatt.charts import Panel, panels
from vatt.results import ResultsError, Row, number

_MODES = ("step", "forward+backward", "forward")  # what training runs, before its parts
_COLUMNS = (
    *("ms", "ours", "p20 to p80", "eager", "torch.compile"),
    *("best baseline", "baseline / ours", "of the lower bound"),
)


@dataclass(frozen=True)
class Entry:
    """One case in the mode that training runs; rows are None where nothing was measured."""

    case: Measured
    mode: str
    ours: Row
    eager: Row | None
    compiled: Row | None
    baseline: Row | None


def lines(cases: Iterable[Measured]) -> list[Entry]:
    """One line a case where ours was measured, of the largest dropout, which is that of training."""
    alike = data.grouped(cases, lambda case: case.key[:4]).values()
    found = [_line(max(of, key=lambda case: float(case.key[4] or 0))) for of in alike]
    return [line for line in found if line is not None]


def _line(case: Measured) -> Entry | None:
    for mode in (*_MODES, *case.modes):
        of = {name: row for name, row in case.modes.get(mode, {}).items() if row["ms"]}
        ours = data.primary(of)
        if ours is not None:
            roles = ("eager",), ("compiled", "ours compiled"), ("baseline",)
            kinds = ([row for name, row in of.items() if data.role(name) in wanted] for wanted in roles)
            fastest = [min(rows, key=lambda row: float(row["ms"]), default=None) for rows in kinds]
            return Entry(case, mode, of[ours], *fastest)
    return None


def markdown(by_machine: Mapping[Machine, Sequence[Row]]) -> str:
    """A table of each machine with its versions, and the command that measures it again."""
    parts = []
    for machine, rows in by_machine.items():
        cases = data.newest(rows)
        if found := lines(cases):
            head = [_cells(_COLUMNS), "|---|" + "---|" * (len(_COLUMNS) - 1)]
            parts.append("\n".join([*head, *map(_row, found), "", _under(machine, cases, found)]) + "\n")
    if not any(machine.cuda for machine in by_machine):
        parts.append(f"{words.NO_GPU}\n")
    return "\n".join(parts)


def _row(line: Entry) -> str:
    def ms(row: Row | None, named: bool = False) -> str:
        if row is None:
            return ""
        return words.short(float(row["ms"])) + (f" ({row['provider']})" if named else "")

    # With a name where it is not our own code that was compiled.
    foreign = line.compiled is not None and line.compiled["provider"].removeprefix("ours ") != COMPILE
    ratio = "" if line.baseline is None else f"{words.short(float(line.baseline['ms']) / float(line.ours['ms']))}x"
    bound = words.share(number(line.ours, "floor_share"))
    named = "" if line.ours["provider"].removeprefix("ours ") in (OURS, AUTO) else f" ({line.ours['provider']})"
    ours = ms(line.ours) + named, words.spread(line.ours)
    others = ms(line.eager), ms(line.compiled, foreign), ms(line.baseline, True)
    return _cells((f"{line.case.name}, {line.mode}", *ours, *others, ratio, bound))


def _cells(values: Iterable[str]) -> str:
    return "| " + " | ".join(map(plain, values)) + " |"


def plain(text: str) -> str:
    """Any text in a cell of a Markdown table, on one line and without meaning as Markdown or HTML.

    Names with an underscore between letters are left alone: Markdown does so too.
    """
    text = re.sub(r"\s+", " ", text)
    if not re.search(r"[\\`*\[\]|~#<>&]|(^|\W)_|_(\W|$)", text):
        return text
    return re.sub(r"([\\`*_\[\]|~#<>&])", lambda found: "\\" + found[0], text)


def _under(machine: Machine, cases: Sequence[Measured], found: Sequence[Entry]) -> str:
    """Device, versions, commits, dates, noise, failures, commands."""
    shown = [line.case for line in found]
    text = f"Device: {words.provenance(machine, shown)} "
    most = data.largest_noise(shown)
    if most is not None:
        text += f"The same call timed twice differs by up to {words.share(most, 1)}. "
    failures = sum(not data.timed(row) for case in cases for row in case.rows)
    if failures:
        text += f"{failures} measurements failed or were refused; the page lists each with its reason. "
    again = words.command([row for case in shown for row in case.rows])
    measured = f"Measured by `{again}`; " if again and "`" not in again else ""
    return plain(text) + f"{measured}table by `python -m bench report --markdown`."


_MOST = 6  # bars in a panel


def picture(by_machine: Mapping[Machine, Sequence[Row]]) -> str:
    """A whole SVG file, of the first machine (a GPU where there is one) with something to compare.

    Raises:
        ResultsError: no machine has a time of ours beside one of anything else.
    """
    for machine, rows in by_machine.items():
        if shown := _panels(data.newest(rows)):
            text = f"{words.provenance(machine, [line.case for line, _ in shown])} "
            text += "Whiskers: 20th to 80th percentile. Pale: ours in another way (eager PyTorch, torch.compile)."
            text += "" if machine.cuda else f" {words.NO_GPU}"
            return panels("Ours against what one would use instead", [panel for _, panel in shown], text)
    raise ResultsError("--svg: no row of ours stands beside one of another provider, so there is nothing to draw")


def _panels(cases: Sequence[Measured]) -> list[tuple[Entry, Panel]]:
    """Of each operation the most important case, and of whole steps the longest: ours, then the others from the best
    on, as many as fit."""
    first: dict[str, tuple[Entry, Panel]] = {}
    for line in sorted(lines(cases), key=_importance):
        rows = line.case.modes[line.mode]
        found = bars(rows)
        others = [bar for bar in found if bar.kind != "ours" and data.role(bar.name) != "again"]
        if line.case.key[1] not in first and others:
            others.sort(key=lambda bar: bar.value, reverse=unit(rows) != "ms")  # of rates, the larger is better
            ours = [bar for bar in found if bar.kind == "ours"]
            panel = Panel(line.case.name, f"{line.mode}; {direction(rows)}", ours + others[: _MOST - 1])
            first[line.case.key[1]] = line, panel
    return list(first.values())


def _importance(line: Entry) -> tuple[bool, int, float]:
    """Shapes that have a target first, in the order of `bench.cases`; steps last; the longer before the shorter."""
    suite, op, case, *_ = line.case.key
    targets = [(shape.op, shape.name) for shape in (*SIZES["gpu"], *SIZES["cpu"]) if shape.priority == 1]
    place = targets.index((op, case)) if (op, case) in targets else len(targets)
    return suite == "steps", place, -float(line.ours["ms"])
