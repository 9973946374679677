"""The bars of all cases of a machine, with what failed under each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bench.report.bars import bars, chart, direction
from bench.report.cases import Case, largest_noise
from bench.report.html import clean, figure, heading, paragraph, plots
from bench.report.providers import primary
from bench.report.words import dates, listed, share

TITLES = {"ops": "Operations", "steps": "Whole steps"}


def against_peers(cases: Sequence[Case]) -> str:
    """Bars of each case and mode, by suite."""
    found = []
    for suite, title in TITLES.items():
        of = [case for case in cases if case.key[0] == suite]
        if of:
            found += [heading(title), paragraph(_how(of), "soft"), plots(map(_case, of))]
    return "".join(found)


def _how(cases: Sequence[Case]) -> str:
    text = "The whiskers reach from the 20th to the 80th percentile. Full colour: ours; pale: ours otherwise (another "
    text += "backend, eager PyTorch, a second timing); grey: others. "
    most = largest_noise(cases)
    if most is None:
        return text + "Ours was not timed twice, so the noise is not known."
    return text + f"Two timings of the same call of ours differ by up to {share(most, 1)}: less means nothing."


def _case(case: Case) -> str:
    rows = case.rows
    shape = listed(row["shape"] for row in rows)
    under = f"{shape}{'; ' if shape else ''}commit {case.revision.name}, {dates(rows)}"
    return figure(case.name, under, *_modes(case), failed(case))


def _modes(case: Case) -> Iterable[str]:
    for mode, of in case.modes.items():
        found = bars(of)
        if not found:
            continue
        against = "" if primary(of) else " (ours has no figure here)"
        yield f"<small>{clean(mode or 'no mode named')}; {clean(direction(found))}{against}</small>"
        yield chart(found, f"{case.name}, {mode}: " + "; ".join(f"{bar.name} {bar.words}" for bar in found))


def failed(case: Case) -> str:
    """What has no figure, each with its reason."""
    items = [
        f"<li><b>{clean(row['provider'])}</b>{clean(' ' + row['mode'] if row['mode'] else '')}: "
        f"{clean(row['note'] or 'no figure, and no reason was written down')}</li>"
        for row in case.failures
    ]
    return f'<ul class="failed">{"".join(items)}</ul>' if items else ""
