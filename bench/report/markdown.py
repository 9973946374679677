"""The table of the README: ours beside eager PyTorch, torch.compile and the best peer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from bench.peers import COMPILE
from bench.report.cases import Case, largest_noise, newest
from bench.report.head import NO_GPU
from bench.report.providers import fastest, is_compiled, is_eager, is_peer, primary
from bench.report.rows import Machine, timed
from bench.report.words import command, dates, listed, share, short, spread, versions
from bench.store import Row, number

_MODES = ("step", "forward+backward", "forward")  # what training runs, before its parts
_COLUMNS = ("ms", "ours", "p20 to p80", "eager", "torch.compile", "best peer", "peer / ours", "of the floor")


@dataclass(frozen=True)
class Line:
    """One case in the mode that training runs; rows are None where nothing was measured."""

    case: Case
    mode: str
    ours: Row
    eager: Row | None
    compiled: Row | None
    peer: Row | None


def markdown(by_machine: Mapping[Machine, Sequence[Row]]) -> str:
    """A table of each machine with its versions, and the command that measures it again."""
    parts = [text for machine, rows in by_machine.items() if (text := _machine(machine, rows))]
    if not any(machine.cuda for machine in by_machine):
        parts.append(f"{NO_GPU}\n")
    return "\n".join(parts)


def lines(cases: Iterable[Case]) -> list[Line]:
    """One line a case where ours was measured, of the largest dropout, which is that of training."""
    most: dict[tuple[str, ...], Case] = {}
    for case in cases:
        old = most.get(case.key[:4])
        if old is None or _dropout(case) > _dropout(old):
            most[case.key[:4]] = case
    return [found for case in most.values() if (found := _line(case)) is not None]


def _dropout(case: Case) -> float:
    try:
        return float(case.key[4] or 0)
    except ValueError:  # free text in that column
        return 0.0


def _line(case: Case) -> Line | None:
    for mode in (*_MODES, *case.modes):
        of = {name: row for name, row in case.modes.get(mode, {}).items() if row["ms"]}
        ours = primary(of)
        if ours is not None:
            kinds = (is_eager, is_compiled, is_peer)
            found = [fastest(row for name, row in of.items() if kind(name)) for kind in kinds]
            return Line(case, mode, of[ours], *found)
    return None


def _machine(machine: Machine, rows: Sequence[Row]) -> str:
    cases = newest(rows)
    found = lines(cases)
    if not found:
        return ""
    table = [_cells(_COLUMNS), "|---|" + "---|" * (len(_COLUMNS) - 1), *map(_row, found)]
    return "\n".join([*table, "", _under(machine, cases, found)]) + "\n"


def _row(line: Line) -> str:
    peer = "" if line.peer is None else f"{_ms(line.peer)} ({line.peer['provider']})"
    ratio = "" if line.peer is None else f"{short(float(line.peer['ms']) / float(line.ours['ms']))}x"
    name = f"{line.case.name}, {line.mode}"
    floor = share(number(line.ours, "floor_share"))
    values = (name, _ms(line.ours), spread(line.ours), _ms(line.eager), _compiled(line.compiled), peer, ratio, floor)
    return _cells(values)


def _ms(row: Row | None) -> str:
    return "" if row is None else short(float(row["ms"]))


def _compiled(row: Row | None) -> str:
    """With a name where it is not our own code that was compiled."""
    own = row is None or row["provider"].removeprefix("ours ") == COMPILE
    return _ms(row) if row is None or own else f"{_ms(row)} ({row['provider']})"


def _cells(values: Iterable[str]) -> str:
    return "| " + " | ".join(map(plain, values)) + " |"


def plain(text: str) -> str:
    """Any text in a cell of a Markdown table, on one line and without meaning as Markdown or HTML."""
    text = re.sub(r"\s+", " ", text)
    return re.sub(r"([\\`*_\[\]|~#<>&])", lambda found: "\\" + found[0], text) if _has_meaning(text) else text


def _has_meaning(text: str) -> bool:
    """Names with an underscore between letters are left alone: Markdown does so too."""
    return bool(re.search(r"[\\`*\[\]|~#<>&]|(^|\W)_|_(\W|$)", text))


def _under(machine: Machine, cases: Sequence[Case], found: Sequence[Line]) -> str:
    """Device, versions, commits, dates, noise, failures, commands."""
    shown = [line.case for line in found]
    rows = [row for case in shown for row in case.rows]
    text = f"Device: {machine.name}; {versions(rows)}; commit {listed(case.revision.name for case in shown)}; "
    text += f"{dates(rows)}. "
    if any(case.revision.dirty for case in shown):
        text += "A star: with changes that are in no commit. "
    most = largest_noise(shown)
    if most is not None:
        text += f"The same call timed twice differs by up to {share(most, 1)}. "
    failures = sum(not timed(row) for case in cases for row in case.rows)
    if failures:
        text += f"{failures} measurements failed or were refused; the page lists each with its reason. "
    again = command(rows)
    measured = f"Measured by `{again}`; " if again and "`" not in again else ""
    return plain(text) + f"{measured}table by `python -m bench.report --markdown`."
