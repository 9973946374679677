"""Rows of results files, grouped: machines, states of the code, cases, and what a provider is."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TypeVar

from bench import store
from bench.cases.base import AUTO, COMPILE, OURS
from bench.measure.session import AGAIN
from vatt.results import ResultsError, Row, number

Key = tuple[str, str, str, str, str]  # suite, op, case, dtype, dropout
COMPARED = ("ops", "steps")
K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


def load(paths: Sequence[Path]) -> list[Row]:
    """All rows of all files, the older before the newer.

    Raises:
        ResultsError: a file that cannot be read or has no row; the message names it.
    """
    found = []
    for path in paths:
        rows = store.read(path)
        if not rows:
            raise ResultsError(f"{path}: has a header but no rows, so there is nothing to report")
        found += rows
    return sorted(found, key=lambda row: row["time"])  # stable: rows of one second stay as they stand in the file


def timed(row: Row) -> bool:
    """Whether a row holds a figure; the others are refusals and failures."""
    return bool(row["ms"] or row["rate"])


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
    return Machine(row["device"], row["threads"], row["cuda"] not in ("", "none") and not row["threads"])


def grouped(values: Iterable[T], key: Callable[[T], K]) -> dict[K, list[T]]:
    """Values by key, in the order in which the keys first come."""
    found: dict[K, list[T]] = {}
    for value in values:
        found.setdefault(key(value), []).append(value)
    return found


def machines(rows: Iterable[Row]) -> dict[Machine, list[Row]]:
    """Rows by machine: GPUs first, then the one measured last."""
    found = grouped(rows, machine).items()
    return dict(sorted(found, key=lambda pair: (pair[0].cuda, pair[1][-1]["time"]), reverse=True))


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


def revisions(rows: Iterable[Row]) -> list[Revision]:
    """States of the code in the order in which they were first measured.

    A comparison (``--base``) measures two in one run and writes the new one first, so within a run the order turns
    round.
    """
    first: dict[Revision, str] = {}
    for row in rows:
        first.setdefault(revision(row), row["run"])
    runs = ((run, list(states)) for run, states in groupby(first, first.__getitem__))
    return [state for run, states in runs for state in (reversed(states) if run else states)]


@dataclass
class Measured:
    """What was measured of one case at one state of the code.

    Attributes:
        modes: by mode, the newest row of each provider, in the order of measurement.
        failures: rows without a figure; all of them, for no later one replaces a reason.
    """

    key: Key
    revision: Revision
    modes: dict[str, dict[str, Row]] = field(default_factory=dict)
    failures: list[Row] = field(default_factory=list)

    @property
    def name(self) -> str:
        return case_name(self.key)

    @property
    def rows(self) -> list[Row]:
        return [row for of in self.modes.values() for row in of.values()] + self.failures


def case_name(key: Key) -> str:
    """Operation and case, type, dropout."""
    _, op, case, dtype, dropout = key
    parts = [f"{op} {case}", dtype, f"dropout {dropout}" if dropout not in ("", "0") else ""]
    return ", ".join(part for part in parts if part)


def case_key(row: Row) -> Key:
    return row["suite"], row["op"], row["case"], row["dtype"], row["dropout"]


def newest(rows: Iterable[Row]) -> list[Measured]:
    """Each case of operations and steps as the newest state of the code had it that was measured with its baselines.

    ``rows``: of one machine, the older before the newer. All rows of a case are of one state of the code and one
    version of PyTorch. Cases come in the order of their first measurement, which is that of their importance.
    """
    of_cases = grouped((row for row in rows if row["suite"] in COMPARED), case_key)
    return sorted((_case(*found) for found in of_cases.items()), key=lambda case: COMPARED.index(case.key[0]))


def _case(key: Key, rows: list[Row]) -> Measured:
    # A comparison with another commit has our backend alone, without baselines and device peaks.
    whole = [row for row in rows if "--base" not in row["command"].split()] or rows
    case = Measured(key, revisions(whole)[-1])
    of_last = [row for row in whole if revision(row) == case.revision]
    versions = itemgetter("torch", "triton")
    failures: dict[tuple[str, ...], Row] = {}
    for row in (row for row in of_last if versions(row) == versions(of_last[-1])):
        if timed(row):
            case.modes.setdefault(row["mode"], {})[row["provider"]] = row
        else:
            failures.setdefault((row["provider"], row["mode"], row["note"]), row)
    case.failures += failures.values()
    return case


# What a provider is, in one word and in more.
ROLES = {
    "ours": "ours",
    "again": "ours, timed a second time",  # how far it lies from the first is noise
    "eager": "ours in eager PyTorch",
    "ours compiled": "ours through torch.compile",
    "compiled": "compiled PyTorch",
    "baseline": "a baseline",
}
# Ours as a user gets it, where nothing says which is the fastest.
_FIRST = (f"ours {OURS}", OURS, f"ours {AUTO}", AUTO)
_BACKENDS = (OURS, "triton_gemm", "gather", "matmul", AUTO)


def is_ours(name: str) -> bool:
    """Code of this project, whichever backend: a backend of ours by name, such a one with a baseline's attention, or
    anything that begins with "ours"."""
    return name.removesuffix(AGAIN).partition("+")[0] in _BACKENDS or name.startswith("ours")


def role(name: str) -> str:
    """One of ROLES."""
    if name.endswith(AGAIN):
        return "again"
    if name in ("ours torch", "torch"):
        return "eager"
    if name.removeprefix("ours ").startswith(COMPILE):
        return "ours compiled" if is_ours(name) else "compiled"
    return "ours" if is_ours(name) else "baseline"


def primary(rows: Mapping[str, Row]) -> str | None:
    """The one of ours that the others are compared with, or None: the fastest backend, which "auto" takes once it was
    checked. ``rows``: of one case and mode by provider."""
    known = [name for name in rows if role(name) == "ours"]
    timed = {name: ms for name in known if "+" not in name and (ms := number(rows[name], "ms"))}
    if timed:
        return min(timed, key=lambda name: timed[name])
    return next((name for name in (*_FIRST, *known) if name in known), None)


def noise(rows: Mapping[str, Row]) -> float | None:
    """How far the second timing of ours lies from the first, relative. ``rows``: of one case and mode by provider."""
    twice = next((name for name in rows if f"{name}{AGAIN}" in rows), "")
    first, again = (number(rows.get(name, {}), "ms") for name in (twice, f"{twice}{AGAIN}"))
    return None if first is None or again is None else abs(again / first - 1)


def largest_noise(cases: Iterable[Measured]) -> float | None:
    """The most that two timings of the same call differ by, relative; None where none was timed twice."""
    found = (noise(of) for case in cases for of in case.modes.values())
    return max((value for value in found if value is not None), default=None)
