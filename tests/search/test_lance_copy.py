"""Search by a copy of the vectors in LanceDB: what it finds is scored as exact search scores it.

Without lancedb, which CI does not install, the candidates come from a stand-in that compares every window.
"""

from __future__ import annotations

import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from vatt.search import Filter, Index, Query, SearchError
from vatt.search.candidates import moments_of_candidates
from vatt.search.format import SEGMENTS, About, Batch, write_segment
from vatt.search.lance import LanceCopy, _keys, check_lance, runs
from vatt.search.ranking import level_of

WIDTHS = {"video": 16, "audio": 16}  # of a joint head: a window without picture is compared by its sound
needs_lancedb = pytest.mark.skipif(find_spec("lancedb") is None, reason="lancedb is not installed")


def write_index(folder: Path, files: dict[str, int], widths: dict[str, int] = WIDTHS) -> Path:
    """Files of 20 windows each by name and seed; vectors in clusters, every third file without a picture."""
    (folder / SEGMENTS).mkdir(parents=True)
    model = {"name": "m", "path": "gone", "weights": "0", "words": None, "vocabulary": None}
    About(model, {"hop_s": 1.0}, widths, str(folder / "films")).write(folder)
    batch = Batch()
    for number, (name, seed) in enumerate(files.items()):
        rng = np.random.default_rng(seed)
        batch.content_N += [number] * 20
        batch.start_N += [float(start) for start in range(20)]
        batch.end_N += [float(start + 2) for start in range(20)]
        for place, (vectors, width) in enumerate(widths.items()):
            has = np.full(20, 0 if place == 0 and seed % 3 == 0 else 1, np.uint8)
            x = rng.standard_normal(width) + 0.6 * rng.standard_normal((20, width))
            x = x / np.linalg.norm(x, axis=1, keepdims=True) * has[:, None]
            batch.vectors.setdefault(vectors, []).append(x.astype(np.float16))
            batch.has.setdefault(vectors, []).append(has)
        content = {"content": f"{seed:016x}", "media": "video", "size": 1, "seconds": 21.0, "sha256": f"{seed:064x}"}
        content |= {"ranges": [[None, None]], "windows": 20, "part": [0, 20], "rows": 20, "faults": []}
        batch.records += [content, {"file": name, "content": content["content"], "size": 1, "mtime": 1}]
        batch.contents += 1
    write_segment(folder / SEGMENTS / "00000000.safetensors", batch, widths)
    return folder


NAMES = {f"{number % 5}/{number}.mp4": number for number in range(200)}  # 4,000 windows


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return Index.open(write_index(tmp_path_factory.mktemp("made") / "index", NAMES))


def words(seed: int, weight: float = 1.0, sets: tuple[str, ...] = ("video", "audio")) -> Query:
    x = np.random.default_rng(1000 + seed).standard_normal(16).astype(np.float32)
    x /= np.linalg.norm(x)
    return Query(dict.fromkeys(sets, x), weight, f"query {seed}")


class StandIn:
    """Names the nearest windows, and tells means, by looking at all."""

    def __init__(self, index: Index) -> None:
        self.index = index

    def level(self, query):
        return level_of(*self.index.scores(query))

    def nearest(self, name, vector_D, count, alone, allowed_F):
        cosine, known = self.index.scores(Query({name: vector_D}))
        known &= ~self.index.has("video") if alone else True
        known &= allowed_F[self.index.rows.file] if allowed_F is not None else True
        rows = np.flatnonzero(known)
        return rows[np.argsort(-cosine[rows])[:count]]


def assert_found_alike(index: Index, copy, least: float = 1.0) -> None:
    """Every hit of exact search that the copy finds, too, is the same moment with the same score and cosines."""
    asked = [
        (words(1), {}),
        (words(2, -1.0), {}),
        (words(3, sets=("audio",)), {"filters": Filter(folder="3")}),
        ([words(4), words(5, 2.0, ("audio",))], {}),
        ([words(6), words(7, -0.5)], {"filters": Filter(folder="1"), "per_file": None, "top": 20}),
    ]
    found = wanted = 0
    for queries, more in asked:
        index.copy = None
        right = index.search(queries, **more)
        index.copy = copy
        hits = {hit.window.row: hit for hit in index.search(queries, **more)}
        index.copy = None
        wanted += len(right)
        for hit in right:
            if (other := hits.get(hit.window.row)) is not None:
                found += 1
                assert (other.start_s, other.end_s) == (hit.start_s, hit.end_s)
                assert other.score == pytest.approx(hit.score, abs=1e-5)
                assert other.cosines == pytest.approx(hit.cosines, abs=1e-6)
    assert found >= least * wanted > 0


def test_candidates_are_scored_as_exact_search_scores_them(index):
    assert_found_alike(index, StandIn(index))
    query, show = [words(8)], {"merge": True, "fold": True, "per_file": 1}
    nothing = np.zeros(len(index), bool)
    nothing[:20] = True  # one file: no ten moments, so exact search has to tell
    assert moments_of_candidates(index, StandIn(index), index.scores, query, nothing, 10, **show) is None


def test_ranges_of_files_are_told_by_their_ends():
    assert runs(np.array([0, 1, 2, 5, 7, 8])) == [(0, 2), (5, 5), (7, 8)]
    assert runs(np.array([], np.int64)) == []


def test_a_missing_library_and_a_missing_copy_are_named(index, tmp_path, monkeypatch):
    with pytest.raises(SearchError, match=r"--store .*none: is no copy of .*index as it is now"):
        LanceCopy.open(str(tmp_path / "none"), index)
    assert not (tmp_path / "none").exists()
    monkeypatch.setitem(sys.modules, "lancedb", None)
    with pytest.raises(SearchError, match=r"--store copy: needs lancedb: pip install "):
        check_lance("copy")


def test_a_range_that_was_moved_makes_a_copy_old():
    """A manifest may name as many windows of the same file elsewhere."""

    def index(*starts):
        rows = SimpleNamespace(file=np.array([0, 0, 1]), start_s=np.array([0.0, 1.0, *starts]))
        files = [SimpleNamespace(name="a.mp4", sha256="0" * 64, windows=windows) for windows in (2, 1)]
        return SimpleNamespace(rows=rows, files=files)

    assert _keys(index(3.0)) == _keys(index(3.0))
    assert _keys(index(3.0)) != _keys(index(4.0))


@needs_lancedb
def test_a_copy_finds_what_exact_search_finds(index, tmp_path, monkeypatch):
    monkeypatch.setattr("vatt.search.lance._INDEXED", 1000)
    copy = LanceCopy(str(tmp_path / "copy"), index)
    assert copy.update() == (4000, 0)
    assert copy.update() == (0, 0)
    copy = LanceCopy.open(str(tmp_path / "copy"), index)
    assert all(list(copy.tables[name].list_indices()) for name in WIDTHS)
    assert_found_alike(index, copy, least=0.95)
    for query in (words(1), words(2, sets=("audio",)), words(3, sets=("video",))):
        assert copy.level(query) == pytest.approx(level_of(*index.scores(query)), abs=1e-5)
    named = copy.nearest("audio", words(1).vectors["audio"], 50, True, np.arange(200) < 100)
    assert len(named) == 50
    assert not index.has("video")[named].any()
    assert index.rows.file[named].max() < 100


@needs_lancedb
def test_a_copy_is_brought_up_to_date_and_is_of_one_index(index, tmp_path):
    place = str(tmp_path / "copy")
    LanceCopy(place, index).update()
    changed = {name: seed for name, seed in NAMES.items() if seed > 10} | {"2/12.mp4": 999, "new.mp4": 998}
    other = Index.open(write_index(tmp_path / "changed", changed))
    with pytest.raises(SearchError, match=r"is no copy of .*changed as it is now; bring it up to date: vatt index"):
        LanceCopy.open(place, other)
    copy = LanceCopy(place, other)
    copy.tables["audio"].add(copy.tables["audio"].to_arrow().slice(0, 7).set_column(0, "file", [[5000] * 7]))
    assert copy.update() == (40, 12)  # what a start that was cut off has left is gone, too
    copy = LanceCopy.open(place, other)
    assert [copy.tables[name].count_rows() for name in ("files", "audio")] == [190, 3800]
    assert_found_alike(other, copy)
    with pytest.raises(SearchError, match="is a copy of another index than"):
        LanceCopy(place, Index.open(write_index(tmp_path / "apart", {"a.mp4": 1}, {"video": 8})))
    shutil.rmtree(tmp_path / "copy" / "audio.lance" / "data")
    with pytest.raises(SearchError, match=r"--store .*copy: "):
        copy.nearest("audio", words(1).vectors["audio"], 5, False, None)
