"""The results file of the project, with the columns FIELDS, and tables of sessions with columns of their own.

Rows of other machines and other commits stand side by side; readers select by column. A row without ``ms`` and without
``rate`` is a refusal or a failure; its ``note`` says why.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from bench import ROOT
from vatt import results
from vatt.environment import environment
from vatt.results import ORIGIN, ResultsError, Row, origin, output_of, text

RESULTS = ROOT / "bench" / "results" / "results.csv"

# What was measured. ``suite``: ops, steps or jobs; ``shape``: in words; ``mode``: forward, forward+backward, step, or
# what a job did; ``provider``: a backend of ours, or what it is compared with.
WHAT = ("suite", "op", "case", "shape", "dtype", "dropout", "mode", "provider")
# Milliseconds of a call (median, 20th and 80th percentile of ``repeats``), of the host to issue it; rates of the
# operations and bytes that the call needs; the device peaks ("roof") of the same run; the lower bound ("floor") that
# they set, and its share of ``ms``; memory beyond the inputs; the first call with compilation, seconds;
# ||out - reference|| / ||reference||.
TIMES = ("ms", "ms_p20", "ms_p80", "repeats", "host_ms", "tflops", "gbps")
LIMITS = ("roof_tflops", "roof_gbps", "floor_ms", "floor_share", "peak_mib", "first_call_s", "error")
# Of whole jobs: ``rate`` in ``unit`` (samples/s, clips/s), share of the device's peak, of the time spent on waiting.
JOBS = ("rate", "unit", "mfu", "wait_share")
FIELDS = (*ORIGIN, *WHAT, *TIMES, *LIMITS, *JOBS, "note", "command")  # ``command`` measures the row again
NUMBERS = (*TIMES, *LIMITS, "rate", "mfu", "wait_share")
ABOVE_ZERO = ("ms", "ms_p20", "ms_p80", "rate", "roof_tflops", "roof_gbps")


def read(path: Path) -> list[Row]:
    """All rows, each with all of FIELDS as text. Raises ResultsError, also for a figure that is none."""
    rows = results.read(path, FIELDS)
    for place, row in enumerate(rows, 2):
        for name in NUMBERS:
            if row[name] and (wanted := _wanted(row[name], name in ABOVE_ZERO)):
                raise ResultsError(f"{path}, line {place}: {name} is {row[name]!r}, not {wanted}")
    return rows


def _wanted(text: str, above_zero: bool) -> str:
    """What a figure has to be and is not, or empty: another one would make means and plots meaningless."""
    try:
        value = float(text)
    except ValueError:
        return "a number"
    if math.isfinite(value) and value >= 0 and not (above_zero and value == 0):
        return ""
    return f"a finite number {'above zero' if above_zero else 'of zero or more'}"


def append(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Adds rows with columns of FIELDS. Raises as `vatt.results.append`."""
    results.append(path, rows, FIELDS)


def number(row: Mapping[str, str], name: str) -> float | None:
    """A column as a number, or None where it is empty."""
    return float(row[name]) if row.get(name) else None


class Table:
    """A results file with columns of its own and its rows. A row is on disk when `add` returns, so that a killed run
    keeps what it had."""

    def __init__(self, path: Path, fields: Sequence[str], resume: bool) -> None:
        """With ``resume`` the rows of the file are kept, else it begins anew."""
        self.path, self.fields = path, tuple(fields)
        if not resume:
            path.unlink(missing_ok=True)
        results.append(path, [], self.fields)
        self.rows = results.read(path, self.fields)

    def add(self, row: Mapping[str, Any]) -> None:
        """Raises ValueError for a column that the file does not have. What is not finite stands as "nan" or "inf"."""
        texts = {name: _any_text(value) for name, value in row.items()}
        results.append(self.path, [texts], self.fields)
        self.rows.append({name: texts.get(name, "") for name in self.fields})

    def find(self, **wanted: Any) -> Row | None:
        """The first row with these values."""
        texts = {name: _any_text(value) for name, value in wanted.items()}
        return next((row for row in self.rows if texts.items() <= row.items()), None)


def _any_text(value: Any) -> str:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else text(value)


def write_environment(
    path: Path, device: torch.device, command: Sequence[str], commit: str | None = None
) -> dict[str, str]:
    """Versions, ORIGIN (``commit`` where git cannot tell), driver and command, as JSON."""
    driver = output_of("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") or "unknown"
    facts = {**environment(), **origin(device), "driver": driver if device.type == "cuda" else "none"}
    facts |= {"command": " ".join(command)} | ({"commit": commit} if commit else {})
    path.write_text(json.dumps(facts, indent=2) + "\n")
    return facts
