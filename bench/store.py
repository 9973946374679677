"""The results file of the project: one CSV that only grows, a row for each figure, each row with where it came from.

Rows of other machines and other commits stand side by side; readers (`bench.report`, `vatt plan`) select by column. A
row without ``ms`` and without ``rate`` is a refusal or a failure, and its ``note`` says why.
"""

from __future__ import annotations

import csv
import fcntl
import math
import os
import platform
import time
import uuid
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from bench.records import ROOT, git
from vatt.environment import environment

RESULTS = ROOT / "bench" / "results" / "results.csv"

# Where a row comes from. ``commit`` has 12 digits; ``dirty``: files that git follows had changes; ``threads`` of
# PyTorch on a CPU; ``run`` is common to the rows of one call of a command, ``command`` measures the row again.
ORIGIN = ("time", "run", "commit", "dirty", "device", "threads", "python", "torch", "triton", "cuda")
# What was measured. ``suite``: ops, steps or jobs; ``shape``: in words; ``mode``: forward, forward+backward, step, or
# what a job did; ``provider``: a backend of ours, or what it is compared with.
WHAT = ("suite", "op", "case", "shape", "dtype", "dropout", "mode", "provider")
# Milliseconds of a call (median, 20th and 80th percentile of ``repeats``), of the host to issue it; rates from
# bench/costs.py; the roofs of the same run; the time that the roofs allow, and its share of ``ms``; memory beyond the
# inputs; the first call with compilation, seconds; ||out - reference|| / ||reference||.
TIMES = ("ms", "ms_p20", "ms_p80", "repeats", "host_ms", "tflops", "gbps")
LIMITS = ("roof_tflops", "roof_gbps", "floor_ms", "floor_share", "peak_mib", "first_call_s", "error")
# Of whole jobs: ``rate`` in ``unit`` (samples/s, clips/s), share of the device's peak, of the time spent on waiting.
JOBS = ("rate", "unit", "mfu", "wait_share")
FIELDS = (*ORIGIN, *WHAT, *TIMES, *LIMITS, *JOBS, "note", "command")

Row = dict[str, str]


class StoreError(ValueError):
    """A results file that cannot be read; the message names file, line and column."""


def read(path: Path) -> list[Row]:
    """All rows, each with all of FIELDS as text.

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
    if missing := [name for name in FIELDS if name not in header]:
        raise StoreError(f"{path}, line 1: columns are missing: {', '.join(missing)}")
    if unknown := [name for name in header if name not in FIELDS]:
        raise StoreError(f"{path}, line 1: unknown columns: {', '.join(unknown)}")
    rows = []
    for number, line in enumerate(lines[1:], 2):
        if len(line) != len(header):
            raise StoreError(f"{path}, line {number}: {len(line)} columns where the header has {len(header)}")
        row = dict(zip(header, line, strict=True))
        for name in (*TIMES, *LIMITS, "rate", "mfu", "wait_share"):
            if row[name] and not _is_number(row[name]):
                raise StoreError(f"{path}, line {number}: {name} is {row[name]!r}, not a number")
        rows.append(row)
    return rows


def _is_number(text: str) -> bool:
    try:
        return float(text) == float(text)  # a NaN is none
    except ValueError:
        return False


def append(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
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
        if header is not None and set(header) != set(FIELDS):
            raise StoreError(f"{path}, line 1: not the columns of a results file; it is left as it is")
        file.seek(0)
        if not (content := file.read()).endswith("\n") and content:
            raise StoreError(f"{path}, line {content.count(chr(10)) + 1}: is cut off; mend or remove it")
        writer = csv.DictWriter(file, header or FIELDS, lineterminator="\n")
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


def origin(device: torch.device, tree: Path = ROOT) -> dict[str, str]:
    """ORIGIN of the rows that this process measures now, with the code of ``tree``."""
    cuda = device.type == "cuda"
    facts = environment()
    status = git("status", "--porcelain", "--untracked-files=no", tree=tree)
    return {
        "time": now(),
        "run": uuid.uuid4().hex[:8],
        "commit": (git("rev-parse", "HEAD", tree=tree) or "unknown")[:12],
        "dirty": "unknown" if status is None else str(status != ""),
        "device": torch.cuda.get_device_name(device) if cuda else cpu_name(facts["CPU"]),
        "threads": "" if cuda else str(torch.get_num_threads()),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "triton": _version("triton"),
        "cuda": torch.version.cuda or "none",
    }


def now() -> str:
    """UTC, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_name(found: str) -> str:
    """The model and its cores, without the threads, which have a column of their own."""
    return found.rpartition(",")[0].removesuffix(" for this process")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"
