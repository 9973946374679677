"""What is compared with what: the newest rows of each case on one machine."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from bench.report.providers import noise
from bench.report.rows import Revision, is_pair, revision, revisions, timed
from bench.store import Row

Key = tuple[str, str, str, str, str]  # suite, op, case, dtype, dropout
COMPARED = ("ops", "steps")


@dataclass
class Case:
    """One case at one state of the code.

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
        """Operation and case, type, dropout."""
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


def newest(rows: Iterable[Row]) -> list[Case]:
    """Each case of operations and steps as the newest state of the code had it that was measured with its peers.

    ``rows``: of one machine, the older before the newer. All rows of a case are of one state of the code and one
    version of PyTorch. Cases come in the order of their first measurement, which is that of their importance.
    """
    by_key: dict[Key, list[Row]] = {}
    for row in rows:
        if row["suite"] in COMPARED:
            by_key.setdefault(case_key(row), []).append(row)
    found = [_case(key, of) for key, of in by_key.items()]
    return sorted(found, key=lambda case: COMPARED.index(case.key[0]))


def _case(key: Key, rows: list[Row]) -> Case:
    whole = [row for row in rows if not is_pair(row)] or rows
    last = revisions(whole)[-1]
    of_last = [row for row in whole if revision(row) == last]
    versions = of_last[-1]["torch"], of_last[-1]["triton"]
    case = Case(key, last)
    for row in of_last:
        if (row["torch"], row["triton"]) != versions:
            continue
        if timed(row):
            case.modes.setdefault(row["mode"], {})[row["provider"]] = row
        elif not any((old["provider"], old["mode"], old["note"]) == _why(row) for old in case.failures):
            case.failures.append(row)
    return case


def _why(row: Row) -> tuple[str, str, str]:
    return row["provider"], row["mode"], row["note"]


def largest_noise(cases: Iterable[Case]) -> float | None:
    """The most that two timings of the same call differ by, relative; None where none was timed twice."""
    found = (noise(of) for case in cases for of in case.modes.values())
    return max((value for value in found if value is not None), default=None)
