"""What a run writes: CSV files that grow row by row, and where it ran."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from vatt.environment import environment

ROOT = Path(__file__).resolve().parents[1]


class Table:
    """A CSV file. A row is on disk when `add` returns, so that a killed run keeps what it had."""

    def __init__(self, path: Path, fields: Sequence[str], key: Sequence[str], resume: bool) -> None:
        """With ``resume`` the rows of the file are kept, else it begins anew."""
        self.path, self.fields, self.key = path, tuple(fields), tuple(key)
        self.rows: list[dict[str, str]] = []
        if resume and path.exists():
            with path.open(newline="") as file:
                self.rows = list(csv.DictReader(file))
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.fields, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)

    def add(self, row: Mapping[str, Any]) -> None:
        """Raises ValueError for a column that the file does not have."""
        texts = {name: _text(value) for name, value in row.items()}
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self.fields, lineterminator="\n").writerow(texts)
        self.rows.append({name: texts.get(name, "") for name in self.fields})

    def find(self, **key: Any) -> dict[str, str] | None:
        """The first row with these values, of the key or of any other columns."""
        wanted = {name: _text(value) for name, value in key.items()}
        return next((row for row in self.rows if all(row[name] == value for name, value in wanted.items())), None)

    def has(self, **key: Any) -> bool:
        return self.find(**key) is not None


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def number(row: Mapping[str, str], name: str) -> float | None:
    """A column as a number, or None where it is empty."""
    return float(row[name]) if row.get(name) else None


def write_environment(
    path: Path, device: torch.device, command: Sequence[str], commit: str | None = None
) -> dict[str, Any]:
    """Device, driver, versions, and which commit this was (``commit`` where git cannot tell), as JSON."""
    cuda = device.type == "cuda"
    facts: dict[str, Any] = dict(environment())
    facts["device"] = torch.cuda.get_device_name(device) if cuda else "cpu"
    facts["driver"] = _run("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") if cuda else "none"
    facts["cuda"] = torch.version.cuda or "none"
    facts["commit"] = commit or git("rev-parse", "HEAD") or "unknown"
    status = git("status", "--porcelain", "--untracked-files=no")
    facts["dirty"] = "unknown" if status is None else status != ""
    facts["command"] = " ".join(command)
    path.write_text(json.dumps(facts, indent=2) + "\n")
    return facts


def git(*words: str, tree: Path = ROOT) -> str | None:
    """What git says of a tree, or None where it says nothing (no git, or not a clone)."""
    answer = _run("git", "-C", str(tree), *words)
    return None if answer == "unknown" else answer


def _run(*command: str) -> str:
    if shutil.which(command[0]) is None:
        return "unknown"
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30)
    except subprocess.TimeoutExpired:
        return "unknown"
    return done.stdout.strip() if done.returncode == 0 else "unknown"
