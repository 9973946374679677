"""Rows of results files, checked, and where they were measured: machines and states of the code."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import store
from bench.store import Row, StoreError

_ABOVE_ZERO = ("ms", "ms_p20", "ms_p80", "rate", "roof_tflops", "roof_gbps")
_NOT_BELOW_ZERO = ("tflops", "gbps", "floor_ms", "floor_share", "peak_mib", "error", "mfu", "wait_share")


def load(paths: Sequence[Path]) -> list[Row]:
    """All rows of all files, the older before the newer.

    Raises:
        StoreError: a file that cannot be read or has no row, a figure that cannot be; the message names the file.
    """
    found = []
    for path in paths:
        rows = store.read(path)
        if not rows:
            raise StoreError(f"{path}: has a header but no rows, so there is nothing to report")
        for line, row in enumerate(rows, 2):
            _check(path, line, row)
        found += rows
    return sorted(found, key=lambda row: row["time"])  # stable: rows of one second stay as they stand in the file


def _check(path: Path, line: int, row: Row) -> None:
    """Raises StoreError for a figure that would make a plot meaningless."""
    for name in (*_ABOVE_ZERO, *_NOT_BELOW_ZERO):
        value = store.number(row, name)
        if value is None:
            continue
        words = "above zero" if name in _ABOVE_ZERO else "of zero or more"
        if value < 0 or (value == 0 and name in _ABOVE_ZERO) or not math.isfinite(value):
            raise StoreError(f"{path}, line {line}: {name} is {row[name]!r}, not a finite number {words}")


@dataclass(frozen=True)
class Machine:
    """A device; of a CPU also the threads, for times with 1 and with 8 threads are no comparison."""

    device: str
    threads: str
    cuda: bool

    @property
    def name(self) -> str:
        """The device in words."""
        name = self.device or "a device without a name"
        return f"{name} ({self.threads} thread{'' if self.threads == '1' else 's'})" if self.threads else name


def machine(row: Row) -> Machine:
    """Where a row was measured. A PyTorch built for CUDA names its version on a CPU too, but there threads stand."""
    cuda = row["cuda"] not in ("", "none") and not row["threads"]
    return Machine(row["device"], row["threads"], cuda)


@dataclass(frozen=True)
class Revision:
    """A state of the code. ``dirty``: with changes that no commit has."""

    commit: str
    dirty: bool

    @property
    def name(self) -> str:
        """Short, with a star where there were changes."""
        return (self.commit[:7] or "unknown") + ("*" if self.dirty else "")


def revision(row: Row) -> Revision:
    """Where git could not tell, nobody knows of no changes: such rows are dirty too."""
    return Revision(row["commit"], row["dirty"] != "False")


def machines(rows: Iterable[Row]) -> dict[Machine, list[Row]]:
    """Rows by machine: GPUs first, then the one measured last."""
    found: dict[Machine, list[Row]] = {}
    for row in rows:
        found.setdefault(machine(row), []).append(row)
    return dict(sorted(found.items(), key=lambda pair: (pair[0].cuda, pair[1][-1]["time"]), reverse=True))


def revisions(rows: Iterable[Row]) -> list[Revision]:
    """States of the code in the order in which they were first measured.

    ``bench.run --base`` measures two in one run and writes the new one first, so within a run the order turns round.
    """
    first: dict[Revision, tuple[str, str]] = {}
    for row in rows:
        first.setdefault(revision(row), (row["time"], row["run"]))
    found: list[list[Revision]] = []
    before = None
    for name, (_, run) in first.items():
        if found and run and run == before:
            found[-1].insert(0, name)
        else:
            found.append([name])
        before = run
    return [name for group in found for name in group]


def timed(row: Row) -> bool:
    """Whether a row holds a figure; the others are refusals and failures."""
    return bool(row["ms"] or row["rate"])


def is_pair(row: Row) -> bool:
    """Whether it was measured beside another commit: our backend alone, without peers and roofs."""
    return "--base" in row["command"].split()
