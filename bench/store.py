"""The results file of the project, with the columns FIELDS.

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

from vatt import results
from vatt.environment import environment
from vatt.files import TREE
from vatt.results import ORIGIN, ResultsError, Row, origin, output_of

RESULTS = TREE / "bench" / "results" / "results.csv"

# What was measured. ``suite``: ops, steps or jobs; ``shape``: in words; ``mode``: forward, forward+backward, step, or
# what a job did; ``provider``: a backend of ours, or what it is compared with.
WHAT = ("suite", "op", "case", "shape", "dtype", "dropout", "mode", "provider")
# Milliseconds of a call (median, 20th and 80th percentile of ``repeats``), of the host to issue it (steps on a CPU and
# decode: CPU time of all threads); rates of the operations and bytes that the call needs; the device peaks ("roof") of
# the same run; the lower bound ("floor") that they set, and its share of ``ms``; memory beyond the inputs; the first
# call with compilation, seconds; ||out - reference|| / ||reference||.
TIMES = ("ms", "ms_p20", "ms_p80", "repeats", "host_ms", "tflops", "gbps")
LIMITS = ("roof_tflops", "roof_gbps", "floor_ms", "floor_share", "peak_mib", "first_call_s", "error")
# Of whole jobs: ``rate`` in ``unit`` (samples/s, clips/s), share of the device's peak, of the time spent on waiting.
JOBS = ("rate", "unit", "mfu", "wait_share")
FIELDS = (*ORIGIN, *WHAT, *TIMES, *LIMITS, *JOBS, "note", "command")  # ``command`` measures the row again
NUMBERS = ("dropout", *TIMES, *LIMITS, "rate", "mfu", "wait_share")
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


def write_environment(
    path: Path, device: torch.device, command: Sequence[str], commit: str | None = None
) -> dict[str, str]:
    """Versions, ORIGIN (``commit`` where git cannot tell), driver and command, as JSON."""
    driver = output_of("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") or "unknown"
    facts = {**environment(), **origin(device), "driver": driver if device.type == "cuda" else "none"}
    facts |= {"command": " ".join(command)} | ({"commit": commit} if commit else {})
    path.write_text(json.dumps(facts, indent=2) + "\n")
    return facts
