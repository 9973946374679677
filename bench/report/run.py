"""Makes a page, a picture or a table of results files: ``python -m bench report [FILE.csv ...]``.

The page is one file that loads nothing from elsewhere: what was measured where, roofline, bars and history of each
machine, all rows. With --svg or --markdown alone no page is written.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from bench import store
from bench.report import data, words
from bench.report.charts import bars, direction, history, roofline
from bench.report.data import Machine, Measured
from bench.report.summary import markdown, picture
from vatt.charts import bar_chart
from vatt.files import appearing
from vatt.html import Cell, cards, clean, figure, heading, links, page, paragraph, plots, section, table
from vatt.results import Row, number

PAGE = Path("bench-report.html")
_SUITES = {"ops": "Operations", "steps": "Whole steps"}
_SHARES = ("floor_share", "mfu", "wait_share")
_FIGURES = ("ms", "tflops", "gbps", "peak_mib", "error", "rate")
_NAMES = dict(floor_share="share of lower bound", wait_share="share of waiting", peak_mib="peak MiB", mfu="MFU")
_NAMES |= dict(tflops="TFLOP/s", gbps="GB/s")
_ALL = (
    *("device", "suite", "op", "case", "dtype", "dropout", "mode", "provider"),
    *("ms", "tflops", "gbps", "floor_share", "peak_mib", "error", "rate", "unit", "mfu"),
    *("commit", "time", "note", "command"),
)
_JOBS = ("device", "op", "case", "mode", "provider", "rate", "unit", "ms", "mfu", "wait_share", "peak_mib", "commit")


def document(rows: Sequence[Row]) -> str:
    """The page of these rows, the older before the newer."""
    by_machine = data.machines(rows)
    jobs = [row for row in reversed(rows) if row["suite"] == "jobs"]
    of_jobs = _rows(jobs, (*_JOBS, "time", "note"), label="Jobs")
    parts = [
        "<h1>What was measured</h1>",
        _head(by_machine),
        *(_machine(f"device-{place}", *found) for place, found in enumerate(by_machine.items(), 1)),
        section("Whole jobs", of_jobs if jobs else paragraph("No whole job was measured.", "soft"), name="jobs"),
        section("All rows", _rows(rows, _ALL, name="rows", label="All rows"), name="all"),
    ]
    return page("VATT benchmarks", parts, script=True)


def _head(by_machine: Mapping[Machine, Sequence[Row]]) -> str:
    """Headline figures, the plain statement of what is therefore not known, and a table of machines."""
    rows = [row for of in by_machine.values() for row in of]
    names = "; ".join(machine.name for machine in by_machine)
    figures = [
        (str(len(by_machine)), "device" if len(by_machine) == 1 else "devices"),
        (str(sum(map(data.timed, rows))), "rows with a figure"),
        (str(sum(not data.timed(row) for row in rows)), "refusals and failures"),
        (str(len({row["commit"] for row in rows})), "commits measured"),
        (words.dates(rows), "measured, UTC"),
    ]
    lines = []
    for place, of in by_machine.items():
        kind, suites = "CUDA device" if place.cuda else "no CUDA device", words.listed(row["suite"] for row in of)
        commits = words.listed(data.revision(row).name for row in of)
        lines.append(("", [place.name, kind, words.versions(of), commits, words.dates(of), suites]))
    note = "A star marks files with changes that are in no commit, or of which git could not tell."
    targets = [(f"device-{number}", machine.name) for number, machine in enumerate(by_machine, 1)]
    parts = [
        cards(figures),
        paragraph(f"Measured on: {names}. Nothing on this page is known of any other device."),
        "" if any(machine.cuda for machine in by_machine) else paragraph(words.NO_GPU, "warn"),
        table(("device", "kind", "versions", "commits", "dates", "suites"), lines, label="Devices"),
        paragraph(note, "soft") if any(data.revision(row).dirty for row in rows) else "",
        links([*targets, ("jobs", "Whole jobs"), ("all", "All rows")]),
    ]
    return "".join(parts)


def _machine(name: str, machine: Machine, rows: Sequence[Row]) -> str:
    cases = data.newest(rows)
    if not cases:
        return section(machine.name, paragraph("No operation and no whole step was measured here.", "soft"), name=name)
    newness = "Each case as the newest code had it that was measured with its baselines; its commit stands at it."
    body = [paragraph(newness, "soft"), heading("Roofline"), roofline(cases)]
    for suite, title in _SUITES.items():
        if of := [case for case in cases if case.key[0] == suite]:
            body += [heading(title), paragraph(_how(of), "soft"), plots(map(_case, of))]
    return section(machine.name, *body, heading("History"), history(rows), name=name)


def _how(cases: Sequence[Measured]) -> str:
    text = "The whiskers reach from the 20th to the 80th percentile. Full colour: ours; pale: ours otherwise (another "
    text += "backend, eager PyTorch, a second timing); grey: others. "
    most = data.largest_noise(cases)
    if most is None:
        return text + "Ours was not timed twice, so the noise is not known."
    return text + f"Two timings of the same call of ours differ by up to {words.share(most, 1)}: less means nothing."


def _case(case: Measured) -> str:
    """Bars of each mode, and what has no figure, each with its reason."""
    shape = words.listed(row["shape"] for row in case.rows)
    under = f"{shape}{'; ' if shape else ''}commit {case.revision.name}, {words.dates(case.rows)}"
    parts = []
    for mode, of in case.modes.items():
        if found := bars(of):
            against = "" if data.primary(of) else " (ours has no figure here)"
            spoken = "; ".join(f"{bar.name} {bar.words}" for bar in found)
            parts.append(f"<small>{clean(mode or 'no mode named')}; {clean(direction(of))}{against}</small>")
            parts.append(bar_chart(found, f"{case.name}, {mode}: {spoken}"))
    items = [
        f"<li><b>{clean(row['provider'])}</b>{clean(' ' + row['mode'] if row['mode'] else '')}: "
        f"{clean(row['note'] or 'no figure, and no reason was written down')}</li>"
        for row in case.failures
    ]
    return figure(case.name, under, *parts, f'<ul class="failed">{"".join(items)}</ul>' if items else "")


def _rows(rows: Iterable[Row], names: Sequence[str], name: str = "", label: str = "") -> str:
    """A table of rows; figures are rounded in the text and whole in what they are sorted by."""
    columns = [Cell(_NAMES.get(name, name), kind="n" if name in (*_SHARES, *_FIGURES) else "") for name in names]
    cells = (("ours" if data.is_ours(row["provider"]) else "", [_cell(row, name) for name in names]) for row in rows)
    return table(columns, cells, name, label)


def _cell(row: Row, name: str) -> Cell:
    if name == "device":
        return Cell(data.machine(row).name)
    if name == "commit":
        return Cell(data.revision(row).name)
    if name in (*_SHARES, *_FIGURES):
        value = number(row, name)
        figure = "" if value is None else words.share(value, 1) if name in _SHARES else words.short(value, 4)
        return Cell(figure, row[name], "n")
    return Cell(row[name], kind="long" if name == "note" and len(row[name]) > 30 else "")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m bench report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add, usual = parser.add_argument, [store.RESULTS]
    add("files", nargs="*", type=Path, default=usual, metavar="FILE.csv", help="default: bench/results/results.csv")
    add("--out", type=Path, metavar="PAGE.html", help=f"where the page goes; default: {PAGE}")
    add("--svg", type=Path, metavar="PICTURE.svg", help="write a picture of bars for a README")
    add("--markdown", action="store_true", help="print a table for a README")
    options = parser.parse_intermixed_args(argv)  # files before or behind the options
    if options.out is None and options.svg is None and not options.markdown:
        options.out = PAGE
    return options


def main(argv: Sequence[str]) -> int:
    """Raises ResultsError, OSError."""
    options = parse(argv)
    rows = data.load(options.files)
    files = {} if options.out is None else {options.out: document(rows)}
    if options.svg is not None:
        files[options.svg] = picture(data.machines(rows))
    shown = markdown(data.machines(rows)) if options.markdown else ""
    with ExitStack() as stack:  # all files, or none
        for path, text in files.items():
            stack.enter_context(appearing(path)).write_text(text, encoding="utf-8")
    for path in files:
        print(f"{path}: {len(rows)} rows", file=sys.stderr)
    print(shown, end="")
    return 0
