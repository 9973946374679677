"""From scores of windows to what people are shown: moments of files, without near copies."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from vatt.search.encoder import Query
from vatt.search.exact import best_first
from vatt.search.state import Rows

Level = tuple[float, float]
NEAR = 0.01  # of the distance of two windows that are drawn at random: nearer ones are copies (docs/search.md)
_JOINS = 0.5  # standard deviations of all scores, by which a window may be worse than the best one of its moment
_TOUCH = 0.05  # seconds between two windows that touch
_LOOKED_AT = 1 << 15  # windows at most, the best ones, from which moments are made
_SAMPLE = 512  # windows by which the distance of two is told


@dataclass(frozen=True)
class IndexedFile:
    """A file of an index.

    Attributes:
        name: from the source on, with "/".
        path: None of a source in shards.
        kind: "video", "audio" or "image".
        seconds: length of the whole file; 0: not known.
        size, mtime: bytes and nanoseconds, as the system said when it was read; 0 in shards.
    """

    name: str
    path: Path | None
    kind: str
    seconds: float
    label: str
    windows: int
    sha256: str
    size: int = 0
    mtime: int = 0

    @property
    def folder(self) -> str:
        """The folder that it is in, from the source on; "" at the top."""
        return self.name.rpartition("/")[0]


@dataclass(frozen=True)
class Window:
    """A window: its id, its file, when it is (seconds), and what is said there ("" where no caption is known)."""

    row: int
    file: IndexedFile
    start_s: float
    end_s: float
    caption: str = ""


@dataclass
class Hit:
    """A moment that was found.

    Attributes:
        window: the best one of it.
        start_s, end_s: of all of its windows together.
        score: of the best window: its cosine, or of several queries see `Index.search`.
        cosines: of the best window, by the name of the query; only those that it can be compared with.
        windows: (id, score), the best first.
        duplicates: moments of other files, or elsewhere in this one, that are nearly the same.
    """

    window: Window
    start_s: float
    end_s: float
    score: float
    cosines: dict[str, float]
    windows: list[tuple[int, float]]
    duplicates: list[Hit] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """What ``vatt search --json`` prints of it."""
        file = self.window.file
        found: dict[str, Any] = {
            "file": file.name,
            "path": None if file.path is None else str(file.path),
            "kind": file.kind,
            "start": round(self.start_s, 3),
            "end": round(self.end_s, 3),
            "best": [round(self.window.start_s, 3), round(self.window.end_s, 3)],
            "score": round(self.score, 5),
            "cosines": {name: round(value, 5) for name, value in self.cosines.items()},
        }
        for name, value in (("caption", self.window.caption), ("label", file.label)):
            if value:
                found[name] = value
        if self.duplicates:
            found["duplicates"] = [hit.as_json() for hit in self.duplicates]
        return found


@dataclass(frozen=True)
class Scored:
    """The score of each window, float32 (N,), whether it has one, its cosines by query (NaN: none), the vector sets
    that were compared, and the standard deviation of all scores, where not all are here."""

    total: np.ndarray
    known: np.ndarray
    cosines: dict[str, np.ndarray]
    sets: Sequence[str]
    spread: float | None = None


def level_of(cosine_N: np.ndarray, known_N: np.ndarray) -> Level:
    """The mean of the cosines of all windows with a query, and their standard deviation."""
    values = cosine_N[known_N]
    return (float(values.mean()), float(values.std())) if len(values) else (0.0, 1.0)


def combined(
    queries: Sequence[Query], compared: Sequence[tuple[np.ndarray, np.ndarray]], levels: Sequence[Level]
) -> Scored:
    """The score of windows for one query or several, see `Index.search`.

    Args:
        compared: by query, the cosine of each window, float32 (N,), and whether it has any, bool (N,).
        levels: by query, see `level_of`; of one query it is not needed.
    """
    total, known_N, weights = np.zeros(len(compared[0][0]), np.float32), np.zeros(len(compared[0][0]), bool), 0.0
    largest = max(abs(query.weight) for query in queries) or 1.0  # the score depends on no common factor
    cosines = {}
    for number, (query, (cosine, known)) in enumerate(zip(queries, compared, strict=True)):
        cosines[query.name] = np.where(known, cosine, np.nan)
        known_N |= known
        if len(queries) == 1:
            total = cosine if query.weight >= 0 else -cosine
            weights = 1.0
            continue
        mean, spread = levels[number]
        weight = query.weight / largest
        total += np.where(known, weight * (cosine - mean) / max(spread, 1e-6), 0).astype(np.float32)
        weights += abs(weight)
    return Scored(total / (weights or 1.0), known_N, cosines, [name for q in queries for name in q.vectors])


class Collection(Protocol):
    """What is needed of an index."""

    rows: Rows
    spaces: dict[str, int]
    files: list[IndexedFile]

    def window(self, row: int) -> Window: ...

    def vectors(self, space: str, rows: Sequence[int] | np.ndarray | None = None) -> np.ndarray: ...

    def has(self, space: str) -> np.ndarray: ...


def moments(
    index: Collection,
    scored: Scored,
    allowed: np.ndarray,
    top: int,
    *,
    merge: bool,
    fold: bool,
    per_file: int | None,
) -> list[Hit]:
    """The ``top`` best moments, see `Index.search`."""
    possible = min(int(allowed.sum()), max(_LOOKED_AT, 8 * top))
    count = min(possible, max(64, 8 * top))
    copies = Copies(index) if fold else None
    # Of few files there may be no more to show, however long they are: their last windows need no look.
    files = int(np.count_nonzero(np.bincount(index.rows.file[allowed], minlength=1)))
    most = top if per_file is None else min(top, per_file * files)
    while True:
        order = best_first(scored.total, allowed, count)
        hits = _gather(index, scored, order, top, merge, per_file, copies)
        if len(hits) >= most or count >= possible:
            return hits
        count = min(possible, 8 * count)


def _gather(
    index: Collection,
    scored: Scored,
    order: np.ndarray,
    top: int,
    merge: bool,
    per_file: int | None,
    copies: Copies | None,
) -> list[Hit]:
    spread = float(scored.total[scored.known].std()) if scored.spread is None and len(order) else scored.spread or 0.0
    joins = _JOINS * spread
    of_file: dict[int, list[Hit]] = defaultdict(list)
    hits, shown = list[Hit](), Counter[int]()
    if copies is not None:
        copies.begin()
    for row in order.tolist():
        file, score = int(index.rows.file[row]), float(scored.total[row])
        start, end = float(index.rows.start_s[row]), float(index.rows.end_s[row])
        if merge and (moment := _touching(of_file[file], start, end)) is not None:
            if score >= moment.score - joins:
                moment.start_s, moment.end_s = min(moment.start_s, start), max(moment.end_s, end)
                moment.windows.append((row, score))
            continue
        if len(hits) >= top and (copies is None or not merge):
            break
        cosines = {name: float(values[row]) for name, values in scored.cosines.items() if not np.isnan(values[row])}
        hit = Hit(index.window(row), start, end, score, cosines, [(row, score)])
        of_file[file].append(hit)
        original = copies.original(hit) if copies is not None else None
        if original is not None:
            original.duplicates.append(hit)
            continue
        if per_file is not None and shown[file] >= per_file:
            continue
        if len(hits) >= top:
            continue  # only what belongs to those that are shown is still looked for
        shown[file] += 1
        hits.append(hit)
        if copies is not None:
            copies.add(hit)
    return hits


def _touching(hits: Sequence[Hit], start: float, end: float) -> Hit | None:
    """The best moment that a window overlaps or touches."""
    return next((hit for hit in hits if start <= hit.end_s + _TOUCH and end >= hit.start_s - _TOUCH), None)


class Copies:
    """Finds moments that are nearly the same: the same content at the same time, or vectors that are so near each other
    in every vector set, beside the distance of two windows drawn at random, that only coding can have made the
    difference.

    A model that was hardly trained gives nearly the same vectors to all; so distance is told beside that of others.
    """

    def __init__(self, index: Collection) -> None:
        self.index = index
        rows = np.unique(np.linspace(0, max(0, len(index.rows) - 1), _SAMPLE).astype(np.int64))[: len(index.rows)]
        self.typical = {}
        for name in index.spaces:
            x = index.vectors(name, rows[index.has(name)[rows]]) if len(rows) else np.empty((0, 1), np.float32)
            count = len(x)
            mean = float((np.square(x.sum(0)).sum() - count) / (count * (count - 1))) if count > 1 else 0.0
            self.typical[name] = max(1.0 - mean, 1e-6)
        self.begin()

    def begin(self) -> None:
        """Forgets what was shown."""
        self.shown: list[tuple[Hit, dict[str, np.ndarray]]] = []

    def add(self, hit: Hit) -> None:
        """A moment that is shown."""
        self.shown.append((hit, self._vectors(hit)))

    def original(self, hit: Hit) -> Hit | None:
        """The moment that is shown already and that this one nearly is."""
        own = self._vectors(hit)
        for other, vectors in self.shown:
            if self._same_content(hit, other):
                return other
            if own.keys() == vectors.keys() and all(self._near(own[name], vectors[name], name) for name in own):
                return other
        return None

    def _vectors(self, hit: Hit) -> dict[str, np.ndarray]:
        row = hit.window.row
        return {name: self.index.vectors(name, [row])[0] for name in self.index.spaces if self.index.has(name)[row]}

    def _near(self, one: np.ndarray, other: np.ndarray, name: str) -> bool:
        return bool(1.0 - float(one @ other) <= NEAR * self.typical[name])

    @staticmethod
    def _same_content(one: Hit, other: Hit) -> bool:
        a, b = one.window, other.window
        same = bool(a.file.sha256) and a.file.sha256 == b.file.sha256 and a.file.name != b.file.name
        return same and min(a.end_s, b.end_s) > max(a.start_s, b.start_s)
