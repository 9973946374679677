"""Search without looking at every window: a copy of the vectors names candidates, which are then compared exactly.

The scores of candidates, with the means and deviations that several queries are weighed by, are those of exact search;
what the copy did not name is missed. Shapes: N windows, F files, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from vatt.search.encoder import Query
from vatt.search.ranking import Collection, Hit, Level, Scored, combined, moments

LEAST = 1000  # candidates
_MOST = 1 << 16
_AROUND = 16  # windows on either side of the best candidates, with which they may make one moment
_BEST = 128  # candidates of which these are looked at
_SAMPLE = 4096  # windows, evenly spread, by which the deviation of the score for several queries is told
Compare = Callable[[Query, np.ndarray], tuple[np.ndarray, np.ndarray]]  # see `Index.scores`


class Copy(Protocol):
    """A copy of the vectors of an index in a database, see `vatt.search.lance.LanceCopy`."""

    def level(self, query: Query) -> Level:
        """The mean of the cosines of all windows with a query, and their standard deviation."""
        ...

    def nearest(
        self, name: str, vector_D: np.ndarray, count: int, alone: bool, allowed_F: np.ndarray | None
    ) -> np.ndarray:
        """About the ``count`` windows of a vector set that are nearest to a vector, as ids of the index.

        Args:
            alone: only windows that have none of the vector sets before this one.
            allowed_F: bool, the files of the index that may be found; None: all.
        """
        ...


def moments_of_candidates(
    index: Collection,
    copy: Copy,
    compare: Compare,
    queries: Sequence[Query],
    allowed_N: np.ndarray,
    top: int,
    *,
    merge: bool,
    fold: bool,
    per_file: int | None,
) -> list[Hit] | None:
    """The best moments among candidates, see `Index.search`. None: they are too few, and exact search has to look."""
    levels = [copy.level(query) for query in queries]
    files_F = None
    if not allowed_N.all():
        files_F = np.bincount(index.rows.file[allowed_N], minlength=len(index.files)) > 0
    spread = _spread(index, compare, queries, levels)
    count = max(LEAST, 64 * top)
    while count <= _MOST:
        rows = _named(index, copy, queries, levels, count, files_F)
        best = rows[np.argsort(-_scored(compare, queries, rows, levels).total, kind="stable")[:_BEST]]
        rows = np.union1d(rows, _around(index, best))
        scored = _spread_out(_scored(compare, queries, rows, levels), rows, len(index.rows), spread)
        possible = scored.known & allowed_N
        hits = moments(index, scored, possible, top, merge=merge, fold=fold, per_file=per_file)
        if len(hits) >= top:
            return hits
        count *= 8
    return None


def _scored(compare: Compare, queries: Sequence[Query], rows: np.ndarray, levels: Sequence[Level]) -> Scored:
    return combined(queries, [compare(query, rows) for query in queries], levels)


def _spread(index: Collection, compare: Compare, queries: Sequence[Query], levels: Sequence[Level]) -> float:
    if len(queries) == 1:
        return levels[0][1]
    rows = np.unique(np.linspace(0, len(index.rows) - 1, min(_SAMPLE, len(index.rows))).astype(np.int64))
    sample = _scored(compare, queries, rows, levels)
    return float(sample.total[sample.known].std()) if sample.known.any() else 0.0


def _named(
    index: Collection,
    copy: Copy,
    queries: Sequence[Query],
    levels: Sequence[Level],
    count: int,
    files_F: np.ndarray | None,
) -> np.ndarray:
    """Candidates of each vector set for all queries together: the score is linear in the vector of a window."""
    directions: dict[tuple[str, bool], np.ndarray] = {}
    for query, (_, spread) in zip(queries, levels, strict=True):
        for number, (name, vector_D) in enumerate(query.vectors.items()):
            part = vector_D * np.float32(query.weight / max(spread, 1e-6))
            key = name, number > 0
            directions[key] = directions[key] + part if key in directions else part
    found = [
        copy.nearest(name, vector_D / np.linalg.norm(vector_D), count, alone, files_F)
        for (name, alone), vector_D in directions.items()
        if vector_D.any()
    ]
    return np.unique(np.concatenate([np.empty(0, np.int64), *found]))


def _around(index: Collection, rows: np.ndarray) -> np.ndarray:
    """The windows before and after some, of the same file."""
    near = rows[:, None] + np.arange(-_AROUND, _AROUND + 1)
    inside = near.clip(0, len(index.rows) - 1)
    same = index.rows.file[inside] == index.rows.file[rows][:, None]
    return np.unique(inside[same & (near == inside)])


def _spread_out(scored: Scored, rows: np.ndarray, count: int, spread: float) -> Scored:
    """The scores of some windows in their places among all."""
    total, known = np.zeros(count, np.float32), np.zeros(count, bool)
    total[rows], known[rows] = scored.total, scored.known
    cosines = {}
    for name, values in scored.cosines.items():
        cosines[name] = np.full(count, np.nan, np.float32)
        cosines[name][rows] = values
    return Scored(total, known, cosines, scored.sets, spread)
