"""Rows of figures, one file for all seeds, and the table that they give."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

from vatt import results
from vatt.files import TREE
from vatt.results import Row, Table

PAGE = TREE / "docs" / "results.md"
RESULTS = TREE / "bench" / "results" / "stamps.csv"
FIELDS = (
    *("time", "commit", "dirty", "device", "python", "torch", "deepspeed"),
    *("study", "what", "split", "method", "level", "seed", "metric", "value", "chance", "n", "command"),
)
METHODS = {
    "model": "model",
    "fine-tuned": "fine-tuned",
    "scratch": "from scratch",
    "random": "random weights",
    "neighbours": "nearest neighbours",
}
WHAT = {
    ("text -> video", "val"): "text -> video, R@5",
    ("text -> video", "test"): "text -> video, R@5, unknown stamps",
    ("audio -> video", "val"): "audio -> video, R@5",
    ("motion", "val"): "motion from video, top-1",
    ("sound", "val"): "which sound, top-1",
}
NONE = "Not measured yet."


def open_table(path: Path) -> Table:
    """The file of rows, with those that it has. Raises ResultsError for another file."""
    return Table(path, FIELDS, resume=True)


def origin(path: Path) -> dict[str, Any]:
    """Where rows that are made now come from."""
    found = results.origin(torch.device("cuda" if torch.cuda.is_available() else "cpu"), aside=path)
    return {name: found[name] for name in FIELDS if name in found} | {"deepspeed": version("deepspeed")}


def main_table(rows: Sequence[Row]) -> str:
    """What the model finds and knows beside what needs no learning: means over seeds, and their deviation."""
    lines = []
    for (what, split), name in WHAT.items():
        found = _where(rows, study="main", what=what, split=split)
        if found:
            cells = [spread(_where(found, method=method)) for method in METHODS]
            lines.append([name, *cells, spread(found[:1], "chance"), found[0]["n"]])
    return markdown(["", *METHODS.values(), "chance", "clips"], lines)


def levels_table(rows: Sequence[Row]) -> str:
    """Sounds as they are beside sounds at one level: the same short run, video and sound alone."""
    lines = []
    for level in ("as_is", "rms"):
        found = _where(rows, study="levels", level=level, method="model")
        figures = [_where(found, what=what) for what in ("loss", "audio -> video", "sound")]
        if found:
            loss = [float(row["value"]) for row in figures[0]]
            own = [f"{mean(loss):.2f}{_deviation(loss, '.2f')}", *map(spread, figures[1:])]
            lines.append([f"`{level}`", str(len(loss)), *own])
    base = [_where(rows, study="levels", what=what)[:1] for what in ("loss", "audio -> video", "sound")]
    if lines:
        lines.append(["chance", "", f"{float(base[0][0]['chance']):.2f}", *(spread(row, "chance") for row in base[1:])])
    return markdown(["`model.input.audio_level`", "seeds", "loss", "audio -> video, R@5", "which sound, top-1"], lines)


def minutes_table(rows: Sequence[Row]) -> str:
    """How long each command took."""
    jobs = _where(rows, study="main", metric="seconds")
    lines = []
    for what in dict.fromkeys(row["what"] for row in jobs):
        minutes: dict[str, float] = defaultdict(float)  # by seed: some run several commands
        for row in _where(jobs, what=what):
            minutes[row["seed"]] += float(row["value"]) / 60
        taken = list(minutes.values())
        lines.append([what, f"{mean(taken):.1f}{_deviation(taken, '.1f')}"])
    return markdown(["", "minutes"], lines)


def machine_line(rows: Sequence[Row]) -> str:
    """What all rows ran on, in a line."""

    def every(name: str) -> str:
        return ", ".join(sorted({row[name] for row in rows}))

    if not rows:
        return NONE
    return (
        f"Device: {every('device')}; Python {every('python')}, torch {every('torch')}, DeepSpeed {every('deepspeed')}; "
        f"commit {every('commit')}; seeds {every('seed')}; mean ± standard deviation over seeds."
    )


def newest(rows: Sequence[Row]) -> list[Row]:
    """The last row of each figure: what was made again counts once."""
    names = ("study", "what", "split", "method", "level", "seed", "metric", "command")
    return list({tuple(row[name] for name in names): row for row in rows}.values())


TABLES = {"main": main_table, "levels": levels_table, "minutes": minutes_table, "machine": machine_line}


def filled(page: str, rows: Sequence[Row]) -> str:
    """The page with each table between its marks, <!-- stamps: NAME --> and <!-- end -->."""

    def made(match: re.Match[str]) -> str:
        return f"{match.group(1)}\n{TABLES[match.group(2)](newest(rows))}\n<!-- end -->"

    return re.sub(r"(<!-- stamps: (\w+) -->)\n.*?<!-- end -->", made, page, flags=re.S)


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table, or NONE without a line."""
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) if lines else NONE


def spread(rows: Sequence[Row], column: str = "value") -> str:
    """Mean and, of several seeds, standard deviation, in per cent; "" without a value."""
    values = [100 * float(row[column]) for row in rows if row[column]]
    return f"{mean(values):.1f}{_deviation(values, '.1f')}%" if values else ""


def _deviation(values: Sequence[float], form: str) -> str:
    return f" ± {stdev(values):{form}}" if len(values) > 1 else ""


def _where(rows: Sequence[Row], **wanted: str) -> list[Row]:
    return [row for row in rows if all(row[name] == value for name, value in wanted.items())]
