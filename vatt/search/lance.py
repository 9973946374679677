"""A copy of an index's vectors in LanceDB, a folder or a place in object storage, that finds candidates without reading
all of them.

The index stays what is true: the copy can be thrown away, and is made again from it. Its tables:

    files                    one row a file: ``file`` (its number here), ``name``, ``content`` (a digest of it and of
                             where its windows begin), ``windows``
    a vector set             one row a window that has it: ``file``, ``place`` among its windows, ``alone``, ``vector``
    moments                  of each vector set: how many windows, and the mean of [x, 1] [x, 1]^T over them
    about                    one row of JSON: what the index was made with, and a digest of its files

``alone`` says that a window has none of the vector sets before this one. ``about`` is written last, so that a copy that
was cut off is known, and the next start goes on with it. Shapes: N windows, D width.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from vatt.errors import printable
from vatt.extras import install
from vatt.search.encoder import Query
from vatt.search.format import SearchError
from vatt.search.index import Index

_MOST_RUNS = 512  # of files with consecutive numbers, by which a filter is told to the database
_INDEXED = 100_000  # windows; fewer are compared one by one
_PARTITION = 8192  # windows of a partition of a table
_ROWS = 1 << 16  # windows that are copied at a time
_FORMAT = 1


def check_lance(uri: str) -> None:
    """Raises SearchError: lancedb is not installed."""
    if find_spec("lancedb") is None:
        raise SearchError(f"--store {uri}: needs lancedb: {install('lance')}")


class LanceCopy:
    """A copy of an index, open.

    Raises:
        SearchError: lancedb is missing, the place cannot be opened, or it is the copy of another index.
    """

    def __init__(self, uri: str, index: Index) -> None:
        check_lance(uri)
        import lancedb

        self.uri, self.index = uri, index
        self._bounds = np.searchsorted(index.rows.file, np.arange(len(index.files) + 1))
        with self._told():
            self.database: Any = lancedb.connect(uri)
            there = set(self.database.list_tables(limit=100).tables)
            self.tables: dict[str, Any] = {
                name: self.database.open_table(name) if name in there else None
                for name in ("files", "moments", "about", *index.spaces)
            }
        self._keys = _keys(index)
        about, made = self._about(), self._of_index()
        if about is not None and made != {key: about.get(key) for key in made}:
            raise SearchError(f"--store {uri}: is a copy of another index than {index.path}; name another place")
        self._is_whole = about is not None and about.get("digest") == _digest(self._keys)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (ValueError, RuntimeError, OSError) as error:
            if isinstance(error, SearchError):
                raise
            raise SearchError(f"--store {self.uri}: {printable(str(error).splitlines()[0][:300])}") from error

    def _about(self) -> dict[str, Any] | None:
        if self.tables["about"] is None:
            return None
        with self._told():
            found: dict[str, Any] = json.loads(self.tables["about"].to_arrow()["text"][0].as_py())
        return found

    def _of_index(self) -> dict[str, Any]:
        about = self.index.about
        model = {key: about.model.get(key) for key in ("name", "weights", "words")}
        return {"format": _FORMAT, "model": model, "settings": about.settings, "vectors": about.vectors}

    # Copying

    def update(self, progress: Callable[[int, int], object] = lambda done, total: None) -> tuple[int, int]:
        """Takes over what is new, and drops what is gone. How many windows and files that are."""
        if self._is_whole:
            return 0, 0
        with self._told():
            return self._update(progress)

    def _update(self, progress: Callable[[int, int], object]) -> tuple[int, int]:
        import pyarrow as pa

        self._write(
            "about", pa.table({"text": [json.dumps(self._of_index())]})
        )  # without a digest: not whole until done
        files = pa.schema(
            [("file", pa.int64()), ("name", pa.binary()), ("content", pa.string()), ("windows", pa.int64())]
        )
        self._make("files", files)
        for name, width in self.index.spaces.items():
            of_rows = [("file", pa.int64()), ("place", pa.int32()), ("alone", pa.bool_())]
            self._make(name, pa.schema([*of_rows, ("vector", pa.list_(pa.float16(), width))]))
        there = {key: number for number, key in self._files()}
        wanted = {key: number for number, key in enumerate(self._keys)}
        gone = sorted(number for key, number in there.items() if key not in wanted)
        next_one = max(there.values(), default=-1) + 1
        for table in (*(self.tables[name] for name in self.index.spaces), self.tables["files"]):
            table.delete(f"file >= {next_one}")  # of a start that was cut off
            for first in range(0, len(gone), 1000):
                table.delete(f"file IN ({', '.join(map(str, gone[first : first + 1000]))})")
        new = [number for key, number in wanted.items() if key not in there]
        total, done = sum(self.index.files[number].windows for number in new), 0
        for part in self._parts(new):
            ids = np.arange(next_one, next_one + len(part))
            next_one += len(part)
            for name in self.index.spaces:
                self._add(name, np.array(part), ids)
            told = [self._keys[number] for number in part]
            columns = [pa.array(ids), *(pa.array(column) for column in zip(*told, strict=True))]
            self.tables["files"].add(pa.table(columns, schema=files))
            done += sum(self.index.files[number].windows for number in part)
            progress(done, total)
        self._finish()
        return total, len(gone)

    def _make(self, name: str, schema: Any) -> None:
        if self.tables[name] is None:
            self.tables[name] = self.database.create_table(name, schema=schema)

    def _files(self) -> list[tuple[int, tuple[bytes, str, int]]]:
        rows = self.tables["files"].to_arrow().to_pydict()
        keys = zip(rows["name"], rows["content"], rows["windows"], strict=True)
        return list(zip(rows["file"], keys, strict=True))

    def _parts(self, files: Sequence[int]) -> Iterator[list[int]]:
        part, rows = list[int](), 0
        for number in files:
            part.append(number)
            rows += self.index.files[number].windows
            if rows >= _ROWS:
                yield part
                part, rows = [], 0
        if part:
            yield part

    def _add(self, name: str, files: np.ndarray, ids: np.ndarray) -> None:
        import pyarrow as pa

        first = self._bounds[files]
        counts = self._bounds[files + 1] - first
        place = np.concatenate([np.arange(count, dtype=np.int32) for count in counts])
        rows = np.repeat(first, counts) + place
        x = self.index.vectors(name, rows).astype(np.float16)
        has, alone = self.index.has(name)[rows] & np.isfinite(x).all(1), self._alone(name)[rows]
        x = x[has]
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), self.index.spaces[name])
        columns = [pa.array(np.repeat(ids, counts)[has]), pa.array(place[has]), pa.array(alone[has]), vectors]
        if len(x):
            self.tables[name].add(pa.table(columns, names=["file", "place", "alone", "vector"]))

    def _alone(self, name: str) -> np.ndarray:
        before = list(self.index.spaces)[: list(self.index.spaces).index(name)]
        return np.all([~self.index.has(other) for other in before], axis=0) if before else self.index.has(name)

    def _finish(self) -> None:
        """Indexes what is new, and says that the copy is whole."""
        import pyarrow as pa

        moments = []
        for name, width in self.index.spaces.items():
            table = self.tables[name]
            if list(table.list_indices()):
                table.optimize()
            elif table.count_rows() >= _INDEXED:
                make_partitions(table, width)
            for alone in (False, True):
                rows = np.flatnonzero(self.index.has(name) & (self._alone(name) if alone else True))
                moments.append((name, alone, *self._moments(name, rows)))
        schema = pa.schema([("set", pa.string()), ("alone", pa.bool_()), ("windows", pa.int64())])
        schema = schema.append(pa.field("mean", pa.list_(pa.float64())))
        columns = [pa.array(column, kind.type) for column, kind in zip(zip(*moments, strict=True), schema, strict=True)]
        self._write("moments", pa.table(columns, schema=schema))
        self._say({"digest": _digest(self._keys)})
        self._is_whole = True

    def _say(self, more: dict[str, Any]) -> None:
        import pyarrow as pa

        self._write("about", pa.table({"text": [json.dumps(self._of_index() | more)]}))

    def _write(self, name: str, rows: Any) -> None:
        mode = "create" if self.tables[name] is None else "overwrite"
        self.tables[name] = self.database.create_table(name, rows, mode=mode)

    def _moments(self, name: str, rows: np.ndarray) -> tuple[int, list[float]]:
        count, found = 0, np.zeros((self.index.spaces[name] + 1,) * 2)
        for first in range(0, len(rows), _ROWS):
            x_ND = self.index.vectors(name, rows[first : first + _ROWS])
            x_ND = x_ND[np.isfinite(x_ND).all(1)]
            x_ND = np.concatenate([x_ND, np.ones((len(x_ND), 1), np.float32)], axis=1)
            count, found = count + len(x_ND), found + x_ND.T @ x_ND
        return count, (found / max(1, count)).ravel().tolist()

    # Searching

    @classmethod
    def open(cls, uri: str, index: Index) -> LanceCopy:
        """Opens a copy to search by it. Raises SearchError: there is none of the index as it is now."""
        copy = cls(uri, index) if "://" in uri or Path(uri).exists() else None
        if copy is None or not copy._is_whole:
            raise SearchError(
                f"--store {uri}: is no copy of {index.path} as it is now; bring it up to date: "
                f"vatt index ... --out {index.path} --store {uri}"
            )
        copy._read()
        return copy

    def _read(self) -> None:
        number = {key: number for number, key in enumerate(self._keys)}
        with self._told():
            found = self._files()
            self._numbers = np.full(max((one for one, _ in found), default=-1) + 1, -1, np.int64)
            self._numbers[[one for one, _ in found]] = [number[key] for _, key in found]
            rows = self.tables["moments"].to_arrow().to_pylist()
            self._probes = {name: probes(self.tables[name].count_rows()) for name in self.index.spaces}
        self._moments_of = {
            (row["set"], row["alone"]): (
                row["windows"],
                np.reshape(row["mean"], (-1, self.index.spaces[row["set"]] + 1)),
            )
            for row in rows
        }

    def level(self, query: Query) -> tuple[float, float]:
        """The mean of the cosines of all windows with a query, and their standard deviation, without looking at them:
        the mean vector and the second moments of each vector set say it."""
        count, total, squares = 0, 0.0, 0.0
        for number, (name, vector_D) in enumerate(query.vectors.items()):
            windows, moments = self._moments_of[name, number > 0]
            count, total = count + windows, total + windows * float(moments[-1, :-1] @ vector_D)
            squares += windows * float(vector_D @ moments[:-1, :-1] @ vector_D)
        mean = total / max(1, count)
        return mean, math.sqrt(max(squares / max(1, count) - mean * mean, 0.0))

    def nearest(
        self, name: str, vector_D: np.ndarray, count: int, alone: bool, allowed_F: np.ndarray | None
    ) -> np.ndarray:
        """See `vatt.search.candidates.Copy`."""
        wanted = ["alone"] if alone else []
        if allowed_F is not None:
            ranges = runs(np.flatnonzero((self._numbers >= 0) & allowed_F[self._numbers]))
            if len(ranges) <= _MOST_RUNS:  # else what is not allowed is left out afterwards
                files = " OR ".join(f"file BETWEEN {first} AND {last}" for first, last in ranges)
                wanted.append(f"({files or 'false'})")
        with self._told():
            asked = self.tables[name].search(np.asarray(vector_D, np.float32)).distance_type("cosine")
            asked = asked.where(" AND ".join(wanted), prefilter=True) if wanted else asked
            found = asked.nprobes(self._probes[name]).select(["file", "place", "_distance"]).limit(count).to_arrow()
        files_R, place_R = (np.asarray(found[column]) for column in ("file", "place"))
        return self._bounds[self._numbers[files_R]] + place_R


def make_partitions(table: Any, width: int) -> None:
    """Indexes a table: partitions of about 8,000 windows, and a byte for 16 values of a vector."""
    from lancedb.index import IvfPq

    parts = next(width // size for size in (16, 8, 4, 2, 1) if width % size == 0)
    count = max(1, table.count_rows() // _PARTITION)
    table.create_index("vector", config=IvfPq(distance_type="cosine", num_partitions=count, num_sub_vectors=parts))


def probes(rows: int) -> int:
    """How many partitions of a table of so many windows are looked at. With half as many a tenth of what is nearest was
    missed, with smaller ones more: neighbours lie in many of them."""
    return max(1, math.ceil(0.82 * rows / _PARTITION))


def runs(ids: np.ndarray) -> list[tuple[int, int]]:
    """Ascending numbers as ranges of consecutive ones, both ends included."""
    if not len(ids):
        return []
    ends = np.flatnonzero(np.diff(ids) > 1)
    return list(zip(ids[np.append(0, ends + 1)].tolist(), ids[np.append(ends, len(ids) - 1)].tolist(), strict=True))


def _keys(index: Index) -> list[tuple[bytes, str, int]]:
    """Of each file its name, a digest of its content and of where its windows begin, and their number. A manifest may
    move a range, so that as many windows are others."""
    bounds = np.searchsorted(index.rows.file, np.arange(len(index.files) + 1))
    found = []
    for file, first, end in zip(index.files, bounds[:-1], bounds[1:], strict=True):
        content = hashlib.sha256(file.sha256.encode())
        content.update(np.asarray(index.rows.start_s[first:end], np.float64).tobytes())
        found.append((file.name.encode("utf-8", "surrogatepass"), content.hexdigest(), file.windows))
    return found


def _digest(keys: Sequence[tuple[bytes, str, int]]) -> str:
    return hashlib.sha256(repr(keys).encode()).hexdigest()
