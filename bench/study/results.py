"""The results file of the study: a row an experiment, each with where it came from and its command."""

from __future__ import annotations

import csv
import platform
import time
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from bench import ROOT
from bench.store import git
from bench.study.experiments import Experiment
from vatt.environment import environment

RESULTS = ROOT / "bench" / "results" / "downstream.csv"
FIELDS = (
    *("time", "commit", "dirty", "device", "python", "torch", "deepspeed"),
    *("kind", "task", "label", "init", "dropped", "seed"),
    *("metric", "value", "second", "chance", "n", "steps", "samples_per_s", "command"),
)
Row = dict[str, str]


def origin(results: Path = RESULTS) -> dict[str, Any]:
    """Where a row that is made now comes from. That rows were added to ``results`` does not make the tree dirty."""
    facts = environment()
    status = git("status", "--porcelain", "--untracked-files=no")
    changed = ["unknown"] if status is None else [line.split(maxsplit=1)[-1] for line in status.splitlines()]
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": (git("rev-parse", "HEAD") or "unknown")[:12],
        "dirty": any((ROOT / name).resolve() != results.resolve() for name in changed),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else facts["CPU"].split(", ")[0],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "deepspeed": version("deepspeed"),
    }


def row_of(experiment: Experiment, where: dict[str, Any]) -> dict[str, Any]:
    """The row of an experiment that has ended. Raises StudyError if its result cannot be read."""
    return {**where, **experiment.what, **experiment.read(experiment.result), "command": experiment.line}


def read(path: Path) -> list[Row]:
    """The rows of a file; none if it is not there."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def append(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Adds rows. Raises ValueError for a column that the file does not have."""
    new = not path.is_file()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        if new:
            writer.writeheader()
        for row in rows:
            writer.writerow(
                {name: f"{value:.6g}" if isinstance(value, float) else value for name, value in row.items()}
            )
