"""Figures and where they come from, in words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import takewhile

from bench.report.data import Machine, Measured
from vatt.results import Row, number

NO_GPU = "No GPU speed has been measured: no row comes from a CUDA device."


def short(value: float, digits: int = 3) -> str:
    """With so many significant digits and no exponent where it reads well: 0.0123, 12.3, 1,230."""
    if value == 0:
        return "0"
    if not 1e-4 <= abs(value) < 1e9:
        return f"{value:.{digits - 1}e}"
    rounded = float(f"{value:.{digits}g}")
    if abs(rounded) >= 10 ** (digits - 1):
        return f"{rounded:,.0f}"
    return f"{rounded:.12f}".rstrip("0").rstrip(".")


def share(value: float | None, digits: int = 0) -> str:
    """A share as percents; empty for None. Small shares are not rounded to nothing."""
    if value is None:
        return ""
    return f"{100 * value:.2g}%" if 0 < value < 0.01 else f"{100 * value:.{digits}f}%"


def spread(row: Row) -> str:
    """From the 20th to the 80th percentile of the times, or empty."""
    low, high = number(row, "ms_p20"), number(row, "ms_p80")
    return f"{short(low)} to {short(high)}" if low is not None and high is not None else ""


def listed(names: Iterable[str]) -> str:
    """Each once, with commas."""
    return ", ".join(dict.fromkeys(name for name in names if name))


def versions(rows: Sequence[Row]) -> str:
    """Of Python, PyTorch, Triton and CUDA, as the rows have them."""
    names = {"python": "Python", "torch": "torch", "triton": "Triton", "cuda": "CUDA"}
    found = {name: listed(row[name] for row in rows if row[name] != "none") for name in names}
    return ", ".join(f"{names[name]} {text}" for name, text in found.items() if text)


def dates(rows: Sequence[Row]) -> str:
    """The first and the last day, UTC."""
    days = sorted({row["time"][:10] for row in rows if row["time"]})
    return " to ".join(dict.fromkeys((days[0], days[-1]))) if days else "no date"


def provenance(machine: Machine, cases: Sequence[Measured]) -> str:
    """Device, versions, commits and dates of these cases, as sentences."""
    rows = [row for case in cases for row in case.rows]
    commits = listed(case.revision.name for case in cases)
    text = f"{machine.name}; {versions(rows)}; commit {commits}; {dates(rows)}."
    return text + (" A star: with changes that are in no commit." if any(c.revision.dirty for c in cases) else "")


def command(rows: Sequence[Row]) -> str:
    """The words that begin the commands of all rows (whole quotes, options with values); empty for none."""
    columns = zip(*(row["command"].split() for row in rows if row["command"]), strict=False)
    shared = [column[0] for column in takewhile(lambda column: len(set(column)) == 1, columns)]
    while " ".join(shared).count("'") % 2 or (shared[-1:] and shared[-1].startswith("--")):
        shared.pop()
    return " ".join(shared)
