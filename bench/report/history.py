"""Ours and eager PyTorch over the commits that were measured, case by case."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from bench.report import svg
from bench.report.cases import COMPARED, Key, case_key, case_name
from bench.report.html import figure, paragraph, plots
from bench.report.providers import is_eager, primary
from bench.report.rows import Revision, revision, revisions
from bench.report.words import short
from bench.store import Row

WIDTH, HEIGHT = 340.0, 170.0
LEFT, RIGHT, TOP, BOTTOM = 54.0, 14.0, 14.0, 40.0
Series = dict[Revision, Row]


def history(rows: Sequence[Row]) -> str:
    """Small line charts of one machine as HTML, or words where there is nothing to compare."""
    found = [plot for (key, mode, torch), of in _groups(rows).items() for plot in _plot(key, mode, torch, of)]
    if not found:
        commits = len({row["commit"] for row in rows if row["suite"] in COMPARED})
        if commits < 2:
            return paragraph("One commit only was measured here, so there is no history.", "soft")
        return paragraph(f"{commits} commits were measured, but no case at two of them with the same torch.", "soft")
    how = "Milliseconds at each commit, in the order of first measurement. Full colour: ours; grey: eager PyTorch. "
    how += "Hollow, with a star: the files had changes that are in no commit. A drift of the machine moves both lines."
    return paragraph(how, "soft") + plots(found)


def _groups(rows: Iterable[Row]) -> dict[tuple[Key, str, str], list[Row]]:
    found: dict[tuple[Key, str, str], list[Row]] = {}
    for row in rows:
        if row["suite"] in COMPARED and row["ms"]:
            found.setdefault((case_key(row), row["mode"], row["torch"]), []).append(row)
    return found


def _plot(key: Key, mode: str, torch: str, rows: Sequence[Row]) -> Iterable[str]:
    ours, eager = _series(rows)
    if len({state.commit for state in ours}) < 2:
        return
    states = [state for state in revisions(rows) if state in ours or state in eager]
    label = f"{case_name(key)}, {mode}, over {len(states)} states of the code"
    yield figure(f"{case_name(key)}, {mode}", f"torch {torch}", _draw(states, ours, eager, label))


def _series(rows: Iterable[Row]) -> tuple[Series, Series]:
    """The newest row of ours and of eager PyTorch at each state of the code."""
    by_state: dict[Revision, dict[str, Row]] = {}
    for row in rows:
        by_state.setdefault(revision(row), {})[row["provider"]] = row
    ours, eager = {}, {}
    for state, of in by_state.items():
        first = primary(of)
        if first is not None:
            ours[state] = of[first]
        plain = next((row for name, row in of.items() if is_eager(name)), None)
        if plain is not None:
            eager[state] = plain
    return ours, eager


def _draw(states: Sequence[Revision], ours: Series, eager: Series, label: str) -> str:
    most = max(float(row["ms"]) for row in (*ours.values(), *eager.values())) * 1.08
    step = (WIDTH - LEFT - RIGHT) / max(len(states) - 1, 1)
    across = {state: LEFT + step * place for place, state in enumerate(states)}
    parts = [*_axes(states, across, most)]
    for series, kind in ((eager, "peer"), (ours, "ours")):
        parts += _line(series, states, across, most, kind)
    return svg.picture(WIDTH, HEIGHT, label, "bars", parts)


def _height(ms: float, most: float) -> float:
    return HEIGHT - BOTTOM - ms / most * (HEIGHT - TOP - BOTTOM)


def _axes(states: Sequence[Revision], across: Mapping[Revision, float], most: float) -> Iterable[str]:
    for value in (0.0, most / 2, most):
        y = _height(value, most)
        yield svg.line(LEFT, y, WIDTH - RIGHT, y, "grid")
        yield svg.text(LEFT - 6, y + 4, short(value), "note", "end", 11)
    # Names that fit: the first, the last, and as many between as leave room.
    every = max(1, -(-len(states) // 4))
    for place, state in enumerate(states):
        last = place == len(states) - 1
        if last or (place % every == 0 and len(states) - 1 - place >= every):
            anchor = "end" if last else "start" if place == 0 else "middle"
            yield svg.text(across[state], HEIGHT - 20, state.name, "note", anchor, 11)
    yield svg.text(LEFT, HEIGHT - 4, "ms by commit", "note", "start", 11)


def _line(
    series: Series, states: Sequence[Revision], across: Mapping[Revision, float], most: float, kind: str
) -> Iterable[str]:
    points = [(state, across[state], _height(float(series[state]["ms"]), most)) for state in states if state in series]
    yield svg.path([(x, y) for _, x, y in points], f"line {kind}")
    for state, x, y in points:
        row = series[state]
        title = f"{state.name}: {row['provider']} {short(float(row['ms']))} ms, {row['time']}"
        shape = f"{kind} hollow" if state.dirty else kind
        yield svg.marker(x, y, False, shape, title, 4.5 if kind == "ours" else 3)
