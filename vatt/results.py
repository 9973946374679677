"""Results files: CSV files that only grow, one row per figure, each with its origin."""

from __future__ import annotations

import csv
import fcntl
import math
import os
import platform
import subprocess
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from vatt.environment import cores, cpu_name, package_version
from vatt.errors import UserError
from vatt.files import TREE

# Where a row comes from. ``commit`` has 12 digits; ``dirty``: files that git follows had changes; ``threads`` of
# PyTorch on a CPU; ``run`` is common to the rows of one call of a command.
ORIGIN = ("time", "run", "commit", "dirty", "device", "threads", "python", "torch", "triton", "cuda")

Row = dict[str, str]


class ResultsError(UserError, ValueError):
    """A results file that cannot be used; the message names file, line and column."""


def read(path: Path, fields: Sequence[str], others: bool = False) -> list[Row]:
    """All rows, each with all of ``fields`` as text.

    Args:
        others: whether the file may have other columns, too.

    Raises:
        ResultsError: no such file, columns that are missing or unknown, a row of another length.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ResultsError(f"{path}: cannot be read: {error}") from error
    if not lines:
        raise ResultsError(f"{path}: is empty, not even a header")
    header = lines[0]
    if missing := [name for name in fields if name not in header]:
        raise ResultsError(f"{path}, line 1: columns are missing: {', '.join(missing)}")
    if not others and (unknown := [name for name in header if name not in fields]):
        raise ResultsError(f"{path}, line 1: unknown columns: {', '.join(unknown)}")
    for place, line in enumerate(lines[1:], 2):
        if len(line) != len(header):
            raise ResultsError(f"{path}, line {place}: {len(line)} columns where the header has {len(header)}")
    return [dict(zip(header, line, strict=True)) for line in lines[1:]]


def append(path: Path, rows: Iterable[Mapping[str, Any]], fields: Sequence[str]) -> None:
    """Adds rows; they are on disk when this returns, also beside another process that adds.

    Raises:
        ResultsError: the file is not such a file; nothing was written. ValueError: a row with an unknown column.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [{name: text(value) for name, value in row.items()} for row in rows]
    with path.open("a+", newline="", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        header = next(csv.reader(file), None)
        if header is not None and set(header) != set(fields):
            raise ResultsError(f"{path}, line 1: not the columns of a results file; it is left as it is")
        file.seek(0)
        if not (content := file.read()).endswith("\n") and content:
            raise ResultsError(f"{path}, line {content.count(chr(10)) + 1}: is cut off; mend or remove it")
        writer = csv.DictWriter(file, header or fields, lineterminator="\n")
        if header is None:
            writer.writeheader()
        writer.writerows(lines)
        file.flush()
        os.fsync(file.fileno())


def text(value: Any) -> str:
    """A value as the file holds it: nothing for None, six digits for a float.

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
        return next((row for row in self.rows if texts.items() <= row.items()), None)


def _any_text(value: Any) -> str:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else text(value)


def origin(device: torch.device, aside: Path | None = None) -> Row:
    """ORIGIN of the rows that this process measures now. That rows were added to ``aside`` does not make the tree
    dirty."""
    cuda = device.type == "cuda"
    status = git("status", "--porcelain", "--untracked-files=no")
    if status is not None and aside is not None:
        changed = (line.split(maxsplit=1)[-1] for line in status.splitlines())
        status = "".join(name for name in changed if (TREE / name).resolve() != aside.resolve())
    return {
        "time": now(),
        "run": uuid.uuid4().hex[:8],
        "commit": (git("rev-parse", "HEAD") or "unknown")[:12],
        "dirty": "unknown" if status is None else str(status != ""),
        "device": torch.cuda.get_device_name(device) if cuda else f"{cpu_name()}, {cores()} cores",
        "threads": "" if cuda else str(torch.get_num_threads()),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "triton": package_version("triton") or "none",
        "cuda": torch.version.cuda or "none",
    }


def git(*words: str) -> str | None:
    """What git says of the clone, or None where it says nothing (no git, or not a clone)."""
    return output_of("git", "-C", str(TREE), *words)


def output_of(*command: str) -> str | None:
    """What a short command prints, or None where it is not installed, fails, or takes longer than 30 s."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def now() -> str:
    """UTC, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
