"""The table of whole jobs, and the table of all rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from bench.report.html import Cell, filter_box, paragraph, table
from bench.report.providers import is_ours
from bench.report.rows import machine, revision
from bench.report.words import share, short
from bench.store import Row, number

_SHARES = ("floor_share", "mfu", "wait_share")
_FIGURES = ("ms", "tflops", "gbps", "peak_mib", "error", "rate")
_NAMES = {
    "floor_share": "share of floor",
    "gbps": "GB/s",
    "mfu": "MFU",
    "peak_mib": "peak MiB",
    "tflops": "TFLOP/s",
    "wait_share": "share of waiting",
}
_ALL = (
    *("device", "suite", "op", "case", "dtype", "dropout", "mode", "provider"),
    *("ms", "tflops", "gbps", "floor_share", "peak_mib", "error", "rate", "unit", "mfu"),
    *("commit", "time", "note", "command"),
)
_JOBS = ("device", "op", "case", "mode", "provider", "rate", "unit", "ms", "mfu", "wait_share", "peak_mib", "commit")


def all_rows(rows: Sequence[Row]) -> str:
    """Every row with a field that filters; the script of the page sorts it by its headers."""
    cells = (("ours" if is_ours(row["provider"]) else "", [cell(row, name) for name in _ALL]) for row in rows)
    return filter_box() + table(_columns(_ALL), cells, "rows", "All rows")


def jobs(rows: Iterable[Row]) -> str:
    """Whole jobs, the newest first."""
    found = [row for row in rows if row["suite"] == "jobs"]
    if not found:
        return paragraph("No whole job was measured.", "soft")
    names = (*_JOBS, "time", "note")
    return table(_columns(names), (("", [cell(row, name) for name in names]) for row in reversed(found)), "", "Jobs")


def _columns(names: Iterable[str]) -> list[Cell]:
    return [Cell(_NAMES.get(name, name), kind="n" if name in (*_SHARES, *_FIGURES) else "") for name in names]


def cell(row: Row, name: str) -> Cell:
    """A column of a row; figures are rounded in the text and whole in what they are sorted by."""
    special: dict[str, Callable[[Row], str]] = {
        "device": lambda row: machine(row).name,
        "commit": lambda row: revision(row).name,
    }
    if name in special:
        return Cell(special[name](row))
    if name in (*_SHARES, *_FIGURES):
        value = number(row, name)
        if value is None:
            return Cell("", kind="n")
        return Cell(share(value, 1) if name in _SHARES else short(value, 4), row[name], "n")
    return Cell(row[name], kind="long" if name == "note" and len(row[name]) > 30 else "")
