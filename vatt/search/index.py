"""An index, open to be searched: its windows in columns, exact search, results as moments of files.

Shapes: N windows, D width.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from vatt.clip import InputConfig
from vatt.data.captions import Caption, choose_candidates
from vatt.data.shards.dataset import is_shards
from vatt.search.candidates import Copy, moments_of_candidates
from vatt.search.encoder import Encoder, Query
from vatt.search.exact import dot_products
from vatt.search.format import ABOUT, SEGMENTS, About, SearchError, Segment, read_segment, segment_paths
from vatt.search.model import check_same, config_of, describe_model
from vatt.search.ranking import Hit, IndexedFile, Window, combined, level_of, moments
from vatt.search.state import Rows, State, rows_of
from vatt.weights.folder import PretrainedError

__all__ = ["Filter", "Index"]
_TRIES = 3  # of opening segments that are put together meanwhile


@dataclass(frozen=True)
class Filter:
    """Which files are searched.

    Attributes:
        folder: their folder, or one above it; "" is all.
        kinds: of "video", "audio" and "image"; () is all.
        min_seconds, max_seconds: length of the whole file.
        files: their names; None: all.
    """

    folder: str = ""
    kinds: tuple[str, ...] = ()
    min_seconds: float = 0.0
    max_seconds: float = float("inf")
    files: frozenset[str] | None = None

    def passes(self, file: IndexedFile) -> bool:
        """Whether a file is searched."""
        folder = self.folder.strip("/")
        return (
            (not folder or file.folder == folder or file.folder.startswith(f"{folder}/"))
            and (not self.kinds or file.kind in self.kinds)
            and self.min_seconds <= file.seconds <= self.max_seconds
            and (self.files is None or file.name in self.files)
        )


class Index:
    """An index to search in; make one with `Index.open`. It never changes, and any number of threads may use it.

    Attributes:
        about: model, settings and source.
        files: those that have windows, in the order of their names.
        rows: the windows of these files, in order; their place is their id as long as the index is open.
        spaces: vector set -> width.
        copy: of the vectors, in a database that names candidates (`vatt.search.lance`); None: search is exact.
    """

    def __init__(self, path: Path, model: Path | None = None, device: str = "cpu") -> None:
        self.path, self.about = path, About.read(path)
        self.spaces = dict(self.about.vectors)
        self._model, self._device = model, device
        self.copy: Copy | None = None
        if model is not None:
            check_same(self.about, describe_model(model, self._vocabulary), path)
        self._load()

    @classmethod
    def open(cls, path: str | Path, model: str | Path | None = None, device: str = "cpu") -> Index:
        """Opens an index for reading; vectors are mapped into memory.

        Args:
            model: the folder of its model; None: where that was when the index was made. It is loaded with the first
                query that needs it.
            device: of the model.

        Raises:
            SearchError: no index, a damaged one, or another model than its own. PretrainedError: no model in ``model``.
        """
        return cls(Path(path), None if model is None else Path(model), device)

    def _load(self) -> None:
        segments, self._signature = _read_segments(self.path, self.spaces)
        self.about = About.read(self.path)  # not older than its signature, so that `again` misses no change
        state = State()
        state.apply(segments)
        live = [named for named in state.live() if state.contents[named.content].rows]
        root = self._root()
        self._segments, self._state = segments, state
        self.files = [
            IndexedFile(
                named.name,
                None if root is None else root / named.name,
                state.contents[named.content].media,
                float(state.contents[named.content].seconds),
                named.label or "",
                state.contents[named.content].rows,
                state.contents[named.content].sha256,
                named.size,
                named.mtime,
            )
            for named in live
        ]
        self._captions = [state.captions_of(named) for named in live]
        self.rows: Rows = rows_of(live, state.contents, segments)
        self._has = {
            name: np.concatenate([np.empty(0, bool), *(one.has[name] for one in segments)])[self.rows.physical]
            for name in self.spaces
        }
        self._spread: dict[tuple[str, ...], float] = {}

    def _root(self) -> Path | None:
        """Where the files are; None where there are none to open, as in shards."""
        if "://" in self.about.source:
            return None
        source = Path(self.about.source)
        if source.is_dir():
            return None if is_shards(source) else source
        return source.parent

    def again(self) -> Index | None:
        """The index as ``vatt index`` has left it since, with the model that is loaded already; None: nothing has
        changed.

        This one stays as it is for those who search in it: ids of rows are others in the new one, and
        it has no ``copy``.

        Raises:
            SearchError: as `open`.
        """
        if _signature(self.path) == self._signature:
            return None
        new = Index(self.path, self._model, self._device)
        if (encoder := self.__dict__.get("encoder")) is not None and new.about.model == self.about.model:
            new.__dict__["encoder"] = encoder.of_index(new._like)
        return new

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def input(self) -> InputConfig:
        """What the model reads of a clip. Raises PretrainedError: the model is not where it was."""
        return config_of(self.model).input

    @property
    def model(self) -> Path:
        """The folder of the model."""
        return self._model or Path(self.about.model["path"])

    @property
    def _vocabulary(self) -> Path | None:
        """The words of a model whose folder has none, as they were given to ``vatt index``."""
        path = self.about.model.get("vocabulary")
        return Path(path) if isinstance(path, str) else None

    @cached_property
    def encoder(self) -> Encoder:
        """Makes queries. Raises SearchError: the model is another one now. PretrainedError: it is not there."""
        try:
            check_same(self.about, describe_model(self.model, self._vocabulary), self.path)
        except (PretrainedError, OSError) as error:
            raise SearchError(f"{self.path}: its model cannot be read: {error}; name it: --model DIR") from error
        return Encoder(self.model, self.spaces, self._device, self._like, vocabulary=self._vocabulary)

    def window(self, row: int) -> Window:
        """A window by its id, with the caption that it overlaps most."""
        file = int(self.rows.file[row])
        start, end = float(self.rows.start_s[row]), float(self.rows.end_s[row])
        return Window(row, self.files[file], start, end, self._caption(file, start, end))

    def _caption(self, file: int, start: float, end: float) -> str:
        # A long film has thousands, and many of its windows are asked for: only what is near is made.
        captions = self._captions[file]
        timed = [each for each in captions if each[0] is not None and each[1] is not None]
        chosen = [each for each in timed if each[0] < end and each[1] > start] if timed else captions[:1]
        near = [Caption(text, first, last) for first, last, text in chosen]
        return choose_candidates(near, start, end, 1, None)[0] if near else ""

    def has(self, space: str) -> np.ndarray:
        """bool (N,): the windows that have a vector in a set."""
        return self._has[space]

    def vectors(self, space: str, rows: Sequence[int] | np.ndarray | None = None) -> np.ndarray:
        """The vectors of windows, L2-normalised float32 (n, D), zero where a window has none.

        Args:
            space: a vector set, one of ``spaces``.
            rows: ids; None: all.
        """
        physical = self.rows.physical if rows is None else self.rows.physical[np.asarray(rows, np.int64)]
        offsets = np.cumsum([0, *map(len, self._segments)])
        found = np.zeros((len(physical), self.spaces[space]), np.float32)
        place = np.searchsorted(offsets, physical, side="right") - 1
        for number in np.unique(place):
            chosen = place == number
            found[chosen] = self._segments[number].vectors[space][physical[chosen] - offsets[number]]
        return found

    def _like(self, row: int) -> dict[str, np.ndarray]:
        return {name: self.vectors(name, [row])[0] for name in self.spaces if self._has[name][row]}

    def scores(self, query: Query, rows: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The cosine of each window with a query, float32 (N,), and whether it has any, bool (N,).

        A window is compared by the first of the query's vector sets that it has.

        Args:
            rows: ids of windows; None: all.
        """
        count = len(self) if rows is None else len(rows)
        found, known = np.zeros(count, np.float32), np.zeros(count, bool)
        for name, vector_D in query.vectors.items():
            if name not in self.spaces:
                raise SearchError(f"query: {name} is no vector set of {self.path}, which has {', '.join(self.spaces)}")
            where = slice(None) if rows is None else rows
            cosines = self._dot_products(name, vector_D, rows)
            new = self._has[name][where] & ~known & np.isfinite(cosines)  # `vatt index` does again what is no number
            found[new] = cosines[new]
            known |= new
        return found, known

    def _dot_products(self, name: str, vector_D: np.ndarray, rows: np.ndarray | None) -> np.ndarray:
        if rows is not None:
            return dot_products(self.vectors(name, rows), vector_D)
        parts = (dot_products(one.vectors[name], vector_D) for one in self._segments)
        return np.concatenate([np.empty(0, np.float32), *parts])[self.rows.physical]

    def search(
        self,
        queries: Query | Sequence[Query],
        top: int = 10,
        filters: Filter | np.ndarray | None = None,
        merge: bool = True,
        fold: bool = True,
        per_file: int | None = 3,
    ) -> list[Hit]:
        """The best moments for a query, or for several together, by exact search, or with a ``copy`` by it.

        The score for one query is its cosine. For several, each cosine counts in standard deviations above its mean
        over all windows, so that none drowns the others, and the score is their weighted mean; a window that a query
        cannot be compared with has the mean there.

        Args:
            filters: of files, or bool (N,) of windows.
            merge: windows that overlap or touch become one moment.
            fold: moments that are nearly the same as a better one become its ``duplicates``.
            per_file: moments of a file, at most; None: any number.

        Raises:
            SearchError: no query, or one of a vector set that the index does not have.
        """
        queries = [queries] if isinstance(queries, Query) else list(queries)
        if not queries or top < 1:
            raise SearchError("query: none is given" if not queries else f"top: must be 1 or more, got {top}")
        allowed = self._allowed(filters)
        show: dict[str, Any] = {"merge": merge, "fold": fold, "per_file": per_file}
        if self.copy is not None and all(query.vectors.keys() <= self.spaces.keys() for query in queries):
            hits = moments_of_candidates(self, self.copy, self.scores, queries, allowed, top, **show)
            if hits is not None:
                return hits
        compared = [self.scores(query) for query in queries]
        levels = [level_of(*each) if len(queries) > 1 else (0.0, 1.0) for each in compared]
        scored = combined(queries, compared, levels)
        return moments(self, scored, scored.known & allowed, top, **show)

    def _allowed(self, filters: Filter | np.ndarray | None) -> np.ndarray:
        if filters is None:
            return np.ones(len(self), bool)
        if isinstance(filters, np.ndarray):
            return filters
        passes = np.array([filters.passes(file) for file in self.files], bool)
        return passes[self.rows.file] if len(passes) else np.zeros(0, bool)


_Signature = tuple[int, list[tuple[str, int, int]]]


def _signature(folder: Path) -> _Signature:
    """What changes with the segments, whose folder is another one when they were put together, and with index.json,
    which says where the files are."""
    found = [(path.name, path.stat()) for path in (folder / ABOUT, *segment_paths(folder))]
    return os.stat(folder / SEGMENTS).st_ino, [(name, status.st_mtime_ns, status.st_size) for name, status in found]


def _read_segments(folder: Path, widths: dict[str, int]) -> tuple[list[Segment], _Signature]:
    """All of one moment, also while ``vatt index`` puts them together. Raises SearchError: one is damaged, or none is
    there."""
    for left in reversed(range(_TRIES)):
        try:
            signature = _signature(folder)
            segments = [read_segment(path, widths) for path in segment_paths(folder)]
            if segments and (_signature(folder)[0] == signature[0] or not left):
                return segments, signature
        except (SearchError, OSError):
            if not left and (folder / SEGMENTS).is_dir():
                raise
    raise SearchError(
        f"{folder}: has no segment in {SEGMENTS}/: they were removed, or vatt index has not written the first one yet; "
        "run it again"
    )
