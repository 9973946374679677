"""The head of the page: what was measured, where, and what is therefore not known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bench.report.html import Cell, cards, links, paragraph, table
from bench.report.rows import Machine, revision, timed
from bench.report.words import dates, listed, versions
from bench.store import Row

NO_GPU = "No GPU speed has been measured: no row comes from a CUDA device."


def head(by_machine: Mapping[Machine, Sequence[Row]]) -> str:
    """Headline figures, the plain statement, and a table of machines."""
    rows = [row for of in by_machine.values() for row in of]
    figures = [
        (str(len(by_machine)), "device" if len(by_machine) == 1 else "devices"),
        (str(sum(map(timed, rows))), "rows with a figure"),
        (str(sum(not timed(row) for row in rows)), "refusals and failures"),
        (str(len({row["commit"] for row in rows})), "commits measured"),
        (dates(rows), "measured, UTC"),
    ]
    parts = [cards(figures), paragraph(statement(list(by_machine)))]
    if not any(machine.cuda for machine in by_machine):
        parts.append(paragraph(NO_GPU, "warn"))
    return "".join([*parts, _machines(by_machine), _links(by_machine)])


def statement(machines: Sequence[Machine]) -> str:
    """Which devices the figures are of, and that they say nothing of others."""
    names = "; ".join(machine.name for machine in machines)
    return f"Measured on: {names}. Nothing on this page is known of any other device."


def _machines(by_machine: Mapping[Machine, Sequence[Row]]) -> str:
    columns = [Cell(name) for name in ("device", "kind", "versions", "commits", "dates", "suites")]
    rows = [("", list(_cells(machine, of))) for machine, of in by_machine.items()]
    note = "A star marks files with changes that are in no commit, or of which git could not tell."
    starred = any(revision(row).dirty for of in by_machine.values() for row in of)
    return table(columns, rows, label="Devices") + (paragraph(note, "soft") if starred else "")


def _cells(machine: Machine, rows: Sequence[Row]) -> list[Cell]:
    commits = listed(revision(row).name for row in rows)
    kind = "CUDA device" if machine.cuda else "no CUDA device"
    suites = listed(row["suite"] for row in rows)
    return [Cell(text) for text in (machine.name, kind, versions(rows), commits, dates(rows), suites)]


def _links(by_machine: Mapping[Machine, Sequence[Row]]) -> str:
    found = [(anchor(place), machine.name) for place, machine in enumerate(by_machine)]
    return links([*found, ("jobs", "Whole jobs"), ("all", "All rows")])


def anchor(place: int) -> str:
    """The name of the section of a machine, by its place."""
    return f"device-{place + 1}"
