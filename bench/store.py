"""Results files: CSV files that only grow, a row for each figure, each row with where it came from.

The results file of the project has the columns FIELDS. Rows of other machines and other commits stand side by side;
readers select by column. A row without ``ms`` and without ``rate`` is a refusal or a failure; its ``note`` says why.
"""

from __future__ import annotations

import csv
import fcntl
import json
import math
import os
import platform
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from bench import ROOT
from vatt.environment import cores, cpu_name, environment, package_version
from vatt.errors import UserError

RESULTS = ROOT / "bench" / "results" / "results.csv"

# Where a row comes from. ``commit`` has 12 digits; ``dirty``: files that git follows had changes; ``threads`` of
# PyTorch on a CPU; ``run`` is common to the rows of one call of a command, ``command`` measures the row again.
ORIGIN = ("time", "run", "commit", "dirty", "device", "threads", "python", "torch", "triton", "cuda")
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
FIELDS = (*ORIGIN, *WHAT, *TIMES, *LIMITS, *JOBS, "note", "command")
NUMBERS = (*TIMES, *LIMITS, "rate", "mfu", "wait_share")
ABOVE_ZERO = ("ms", "ms_p20", "ms_p80", "rate", "roof_tflops", "roof_gbps")

Row = dict[str, str]


class StoreError(UserError, ValueError):
    """A results file that cannot be read; the message names file, line and column."""


def read(path: Path, fields: Sequence[str] = FIELDS) -> list[Row]:
    """All rows, each with all of ``fields`` as text.

    Raises:
        StoreError: no such file, columns that are missing or unknown, a row of another length, a figure that is none.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise StoreError(f"{path}: cannot be read: {error}") from error
    if not lines:
        raise StoreError(f"{path}: is empty, not even a header")
    header = lines[0]
    if missing := [name for name in fields if name not in header]:
        raise StoreError(f"{path}, line 1: columns are missing: {', '.join(missing)}")
    if unknown := [name for name in header if name not in fields]:
        raise StoreError(f"{path}, line 1: unknown columns: {', '.join(unknown)}")
    rows = []
    for place, line in enumerate(lines[1:], 2):
        if len(line) != len(header):
            raise StoreError(f"{path}, line {place}: {len(line)} columns where the header has {len(header)}")
        row = dict(zip(header, line, strict=True))
        for name in NUMBERS if fields == FIELDS else ():
            if row[name] and (wanted := _wanted(row[name], name in ABOVE_ZERO)):
                raise StoreError(f"{path}, line {place}: {name} is {row[name]!r}, not {wanted}")
        rows.append(row)
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


def append(path: Path, rows: Iterable[Mapping[str, Any]], fields: Sequence[str] = FIELDS) -> None:
    """Adds rows; they are on disk when this returns, also beside another process that adds.

    Raises:
        StoreError: the file is not such a file; nothing was written. ValueError: a row with an unknown column.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [{name: text(value) for name, value in row.items()} for row in rows]
    with path.open("a+", newline="", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        header = next(csv.reader(file), None)
        if header is not None and set(header) != set(fields):
            raise StoreError(f"{path}, line 1: not the columns of a results file; it is left as it is")
        file.seek(0)
        if not (content := file.read()).endswith("\n") and content:
            raise StoreError(f"{path}, line {content.count(chr(10)) + 1}: is cut off; mend or remove it")
        writer = csv.DictWriter(file, header or fields, lineterminator="\n")
        if header is None:
            writer.writeheader()
        writer.writerows(lines)
        file.flush()
        os.fsync(file.fileno())


def text(value: Any) -> str:
    """As it stands in the file: nothing for None, six digits for a float.

    Raises:
        ValueError: a float that is not finite.
    """
    if value is None:
        return ""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} is no figure for a results file")
    return f"{value:.6g}" if isinstance(value, float) else str(value)


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
        append(path, [], self.fields)
        self.rows = read(path, self.fields)

    def add(self, row: Mapping[str, Any]) -> None:
        """Raises ValueError for a column that the file does not have. What is not finite stands as "nan" or "inf"."""
        texts = {name: _any_text(value) for name, value in row.items()}
        append(self.path, [texts], self.fields)
        self.rows.append({name: texts.get(name, "") for name in self.fields})

    def find(self, **wanted: Any) -> Row | None:
        """The first row with these values."""
        texts = {name: _any_text(value) for name, value in wanted.items()}
        return next((row for row in self.rows if all(row[name] == value for name, value in texts.items())), None)


def _any_text(value: Any) -> str:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else text(value)


def origin(device: torch.device, tree: Path = ROOT, aside: Path | None = None) -> dict[str, str]:
    """ORIGIN of the rows that this process measures now, with the code of ``tree``. That rows were added to ``aside``
    does not make the tree dirty."""
    cuda = device.type == "cuda"
    status = git("status", "--porcelain", "--untracked-files=no", tree=tree)
    if status is not None and aside is not None:
        changed = (line.split(maxsplit=1)[-1] for line in status.splitlines())
        status = "".join(name for name in changed if (tree / name).resolve() != aside.resolve())
    return {
        "time": now(),
        "run": uuid.uuid4().hex[:8],
        "commit": (git("rev-parse", "HEAD", tree=tree) or "unknown")[:12],
        "dirty": "unknown" if status is None else str(status != ""),
        "device": torch.cuda.get_device_name(device) if cuda else f"{cpu_name()}, {cores()} cores",
        "threads": "" if cuda else str(torch.get_num_threads()),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "triton": package_version("triton") or "none",
        "cuda": torch.version.cuda or "none",
    }


def write_environment(
    path: Path, device: torch.device, command: Sequence[str], commit: str | None = None
) -> dict[str, Any]:
    """Device, driver, versions, and which commit this was (``commit`` where git cannot tell), as JSON."""
    cuda, found = device.type == "cuda", origin(device)
    facts: dict[str, Any] = dict(environment())
    facts["device"] = found["device"] if cuda else "cpu"
    driver = _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") if cuda else "none"
    facts["driver"] = driver or "unknown"
    facts["cuda"] = found["cuda"]
    facts["commit"] = commit or git("rev-parse", "HEAD") or "unknown"
    facts["dirty"] = {"True": True, "False": False}.get(found["dirty"], "unknown")
    facts["command"] = " ".join(command)
    path.write_text(json.dumps(facts, indent=2) + "\n")
    return facts


def git(*words: str, tree: Path = ROOT) -> str | None:
    """What git says of a tree, or None where it says nothing (no git, or not a clone)."""
    return _output("git", "-C", str(tree), *words)


def _output(*command: str) -> str | None:
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30)
    except subprocess.TimeoutExpired:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def now() -> str:
    """UTC, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
