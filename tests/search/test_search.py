"""What is found: planted vectors, where the right answer is known, and a model of random weights from end to end."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest
import torch

from tests.inference.library_models import save_model, small_config
from tests.search.tiny import make_films, make_index
from vatt.__main__ import main
from vatt.cli.search import as_line
from vatt.json_files import json_line
from vatt.search import Filter, Index, Query, SearchError
from vatt.search.exact import best_first, dot_products
from vatt.search.format import ABOUT, SEGMENTS, About, Batch, write_segment
from vatt.search.state import Content, Named, State
from vatt.weights.folder import model_folder

WIDTH = 16


def plant(folder, files):
    """An index of planted vectors. ``files``: name -> {"seconds", "v": {start: vector}, "a": {start: vector}}; windows
    of 2 s, content alike where "sha" is."""
    (folder / SEGMENTS).mkdir(parents=True)
    (folder / "films").mkdir()
    widths = {"video-text": WIDTH, "video-audio": WIDTH, "audio-video": WIDTH}
    About({"name": "m", "path": "/nowhere", "weights": "0", "words": "0"}, {}, widths, str(folder / "films")).write(
        folder
    )
    batch = Batch()
    for number, (name, about) in enumerate(files.items()):
        v, a = about.get("v", {}), about.get("a", {})
        starts = sorted({*v, *a})
        content = Content(
            name, about.get("kind", "video"), 0, about.get("seconds", 10.0), about.get("sha", ""), [], len(starts)
        )
        named = Named(name, name, 0, 0, captions=about.get("captions", []), beside=[])
        batch.records += [content.record((0, len(starts)), len(starts), []), named.record()]
        batch.content_N += [number] * len(starts)
        batch.start_N += starts
        batch.end_N += [start + 2.0 for start in starts]
        for key, of in (("video-text", v), ("video-audio", v), ("audio-video", a)):
            rows = [of.get(start, np.zeros(WIDTH)) for start in starts]
            batch.vectors.setdefault(key, []).append(np.array(rows, np.float16).reshape(-1, WIDTH))
            batch.has.setdefault(key, []).append(np.array([start in of for start in starts], np.uint8))
    write_segment(folder / SEGMENTS / "00000000.safetensors", batch, widths)
    return Index.open(folder)


def unit(*places, rest=0.0):
    """A vector with 1 at these places, and ``rest`` elsewhere, normalised."""
    x = np.full(WIDTH, rest)
    x[list(places)] = 1.0
    return x / np.linalg.norm(x)


def noise(seed):
    x = np.random.default_rng(seed).standard_normal(WIDTH)
    return x / np.linalg.norm(x)


def words(vector, weight=1.0):
    return Query({"video-text": np.float32(vector)}, weight, "text")


def sound(vector, weight=1.0):
    return Query({"audio-video": np.float32(vector)}, weight, "audio")


def found(hits):
    return [(hit.window.file.name, hit.start_s, hit.end_s) for hit in hits]


def test_windows_of_a_file_are_merged_where_they_match(tmp_path):
    film = {float(n): noise(n) for n in range(0, 30)}
    film |= {10.0: unit(0, rest=0.1), 11.0: unit(0), 12.0: unit(0, rest=0.1), 25.0: unit(0, rest=0.4)}
    index = plant(tmp_path / "i", {"long.mp4": {"seconds": 32.0, "v": film}, "b.mp4": {"v": {0.0: unit(0, 1)}}})
    best, *rest = index.search(words(unit(0)), top=3)
    assert (best.window.start_s, best.start_s, best.end_s) == (11.0, 10.0, 14.0)
    assert best.score == pytest.approx(1.0, abs=1e-3)
    assert [row for row, _ in best.windows] == [index.rows.start_s.tolist().index(at, 1) for at in (11.0, 10.0, 12.0)]
    assert ("b.mp4", 0.0, 2.0) in found(rest)
    assert not any(hit.start_s < 14.0 and hit.end_s > 10.0 for hit in rest if hit.window.file.name == "long.mp4")
    alone = index.search(words(unit(0)), top=4, merge=False, per_file=None, fold=False)
    assert found(alone)[0] == ("long.mp4", 11.0, 13.0)
    assert len(index.search(words(unit(0)), top=9, per_file=1)) == 2  # one of each file


def test_few_long_files_are_not_searched_to_their_last_window(tmp_path, monkeypatch):
    """Two films of 300 moments show six, however many are asked for."""
    films = {name: {"v": {10.0 * n: noise(1000 * at + n) for n in range(300)}} for at, name in enumerate("ab")}
    films["b"]["captions"] = [[2.0 * n, 2.0 * n + 2, f"number {n}"] for n in range(1500)] + [[None, None, "title"]]
    index = plant(tmp_path / "x", films)
    counts = []

    def counted(scores, allowed, count):
        counts.append(count)
        return best_first(scores, allowed, count)

    monkeypatch.setattr("vatt.search.ranking.best_first", counted)
    hits = index.search(words(noise(1000 + 7)), 20)
    assert len(hits) == 6
    assert counts == [160]
    assert (hits[0].start_s, hits[0].window.caption) == (70.0, "number 35")
    assert len(index.search(words(noise(7)), 20, per_file=None)) == 20


def test_near_copies_are_folded_and_shown_by_all(tmp_path, capsys):
    one, other = unit(0, 1, rest=0.2), noise(7)
    near = one + 0.01 * noise(3)
    files = {f"{n:02d}.mp4": {"v": {0.0: noise(20 + n)}, "a": {0.0: noise(60 + n)}} for n in range(20)}
    files |= {
        "a.mp4": {"v": {0.0: one}, "a": {0.0: other}},
        "b.mp4": {"v": {0.0: near / np.linalg.norm(near)}, "a": {0.0: other}},  # coded again
        "c.mp4": {"v": {0.0: one}, "a": {0.0: noise(8)}},  # the same picture, another sound
    }
    index = plant(tmp_path / "i", files)
    hits = index.search(words(one), top=3)
    assert [hit.window.file.name for hit in hits[:2]] == ["a.mp4", "c.mp4"]
    assert [hit.window.file.name for hit in hits[0].duplicates] == ["b.mp4"]
    assert len(hits) == 3
    unfolded = index.search(words(one), top=3, fold=False)
    assert {hit.window.file.name for hit in unfolded} == {"a.mp4", "b.mp4", "c.mp4"}
    assert not any(hit.duplicates for hit in unfolded)


def test_a_model_that_gives_almost_the_same_to_all_folds_nothing(tmp_path):
    base = unit(0, rest=0.5)
    cone = {f"{n}.mp4": {"v": {0.0: base + 0.02 * noise(n)}} for n in range(12)}
    for about in cone.values():
        about["v"][0.0] /= np.linalg.norm(about["v"][0.0])
    index = plant(tmp_path / "i", cone)
    assert float((index.vectors("video-text") @ index.vectors("video-text").T).min()) > 0.99
    assert len(index.search(words(base), top=12)) == 12


def test_copies_of_a_file_are_folded_by_their_content(tmp_path):
    v = {0.0: unit(0), 1.0: unit(0, rest=0.01)}
    index = plant(
        tmp_path / "i", {"a.mp4": {"v": v, "sha": "s"}, "b.mp4": {"v": v, "sha": "s"}, "c.mp4": {"v": {0.0: noise(2)}}}
    )
    (first, second) = index.search(words(unit(0)), top=5)
    assert found(first.duplicates) == [("b.mp4", 0.0, 3.0)]
    assert second.window.file.name == "c.mp4"


def test_weights_combine_queries_whatever_their_spread(tmp_path):
    """Sounds lie in a narrow cone here: their cosines differ little, and count as much."""
    base = unit(*range(WIDTH))
    files = {f"{n}.mp4": {"v": {0.0: noise(n)}, "a": {0.0: base + 0.01 * noise(100 + n)}} for n in range(40)}
    files["both.mp4"] = {"v": {0.0: unit(1, 0)}, "a": {0.0: base + 0.05 * unit(1)}}
    files["seen.mp4"] = {"v": {0.0: unit(0)}, "a": {0.0: base - 0.02 * unit(1)}}
    files["heard.mp4"] = {"v": {0.0: -unit(0)}, "a": {0.0: base + 0.1 * unit(1)}}
    for about in files.values():
        about["a"][0.0] = about["a"][0.0] / np.linalg.norm(about["a"][0.0])
    files["mute.mp4"] = {"v": {0.0: unit(0, rest=0.05)}}
    index = plant(tmp_path / "i", files)
    see, hear = words(unit(0)), sound(base + 0.1 * unit(1))

    def first(*queries):
        return index.search(list(queries), top=1)[0].window.file.name

    assert first(see) == "seen.mp4"
    assert first(hear) == "heard.mp4"
    assert first(see, hear) == "both.mp4"
    assert first(see, hear.weighted(0.1)) in ("seen.mp4", "mute.mp4")
    assert first(see, hear.weighted(-1.0)) == "seen.mp4"
    (hit,) = [h for h in index.search([see, hear], top=50, fold=False) if h.window.file.name == "mute.mp4"]
    assert hit.cosines.keys() == {"text"}  # compared by its picture alone
    assert "mute.mp4" not in {h.window.file.name for h in index.search(hear, top=50, fold=False)}


def test_weights_count_beside_each_other_alone(tmp_path):
    index = plant(tmp_path / "i", {"a": {"v": {0.0: unit(0), 2.0: unit(1)}}, "b": {"v": {0.0: unit(0, 1)}}})
    queries = [Query({"video-text": unit(0)}, 1.0, "one"), Query({"video-text": unit(1, 2)}, 0.5, "two")]
    wanted = [(hit.window.row, hit.score) for hit in index.search(queries)]
    for factor in (1e308, 1e-308):  # whose sums would be no numbers
        hits = index.search([query.weighted(query.weight * factor) for query in queries])
        assert [(hit.window.row, pytest.approx(hit.score)) for hit in hits] == wanted


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"seconds": "x"}, "seconds is 'x'"),
        ({"seconds": 1e308}, "seconds is 1e+308"),
        ({"media": "exe"}, "media is 'exe'"),
        ({"captions": [1]}, "no file and no content"),
        ({"captions": [["a", "b", "c"]]}, "a caption is"),
        ({"captions": [[0, 1, 5]]}, "a caption is"),
        ({"file": 5}, "file is '5'"),
    ],
)
def test_records_that_mean_harm_are_told(tmp_path, record, message):
    segment = plant(tmp_path / "i", {"a": {"v": {0.0: unit(0)}}})._segments[0]
    segment.records[0 if "file" not in record else 1].update(record)
    with pytest.raises(SearchError, match=r"00000000\.safetensors: a record is no file") as raised:
        State().apply([segment])
    assert message in str(raised.value)


def test_filters_by_folder_length_and_kind(tmp_path):
    names = ["a/x.mp4", "a/b/y.mp4", "ab/z.mp4", "top.mp4"]
    files = {name: {"v": {0.0: noise(n)}, "seconds": 10.0 * n} for n, name in enumerate(names)}
    files["s.wav"] = {"a": {0.0: noise(9)}, "kind": "audio", "seconds": 5.0}
    index = plant(tmp_path / "i", files)

    def names_of(filters, query=None):
        return {hit.window.file.name for hit in index.search(query or words(noise(0)), 9, filters, fold=False)}

    assert names_of(Filter("a")) == {"a/x.mp4", "a/b/y.mp4"}
    assert names_of(Filter("a/b/")) == {"a/b/y.mp4"}
    assert names_of(Filter("nowhere")) == set()
    assert names_of(Filter(min_seconds=15, max_seconds=25)) == {"ab/z.mp4"}
    assert names_of(Filter(kinds=("audio",)), sound(noise(9))) == {"s.wav"}
    assert names_of(Filter(files=frozenset(["top.mp4"]))) == {"top.mp4"}
    assert names_of(index.rows.start_s > 99) == set()
    with pytest.raises(SearchError, match="colour is no vector set"):
        index.search(Query({"colour": noise(0)}))


def test_exact_search_is_that_of_float64_and_keeps_equal_ones_in_order():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((5000, 24))
    stored = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float16)
    query = stored[17].astype(np.float32)
    np.testing.assert_allclose(
        dot_products(stored, query), stored.astype(np.float64) @ query.astype(np.float64), atol=1e-6
    )
    assert best_first(dot_products(stored, query), np.ones(5000, bool), 3)[0] == 17
    scores = np.array([1.0, 3.0, 2.0, 3.0, 3.0])
    assert best_first(scores, np.array([1, 1, 1, 0, 1], bool), 2).tolist() == [1, 4]
    assert best_first(scores, np.zeros(5, bool), 2).tolist() == []


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    make_index(folder)
    return folder


def run(capsys, *arguments):
    code = main(["search", *map(str, arguments)])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_a_film_a_sound_and_words_find_themselves(made, capsys):
    """Each film is noise of its own, which even a model of random weights tells apart."""
    films, index = made / "films", made / "index"
    for flag, file in (
        ("--video", f"{films}/2.mp4@1.0"),
        ("--audio", f"{films}/2.mp4@1.0"),
        ("--audio", f"{films}/noise.wav@1"),
    ):
        code, out, err = run(capsys, index, flag, file, "--json", "--top", "2")
        assert code == 0, err
        best = json.loads(out.splitlines()[0])
        assert best["path"] == file.partition("@")[0]
        assert best["best"] == [0.0, 2.0]
        assert best["score"] > 0.999
    code, out, _ = run(capsys, index, "a red star", "--top", "2", "--per-file", "1")
    assert (code, len(out.splitlines())) == (0, 2)
    score, when, path = out.splitlines()[0].split()[:3]
    assert -1 <= float(score) <= 1
    assert when.count(":") == 2
    assert os.path.exists(path)
    code, out, _ = run(
        capsys, index, "--text", "a star", "--audio", films / "1.mp4", "--weights", "text=0,audio=1", "--json"
    )
    assert json.loads(out.splitlines()[0])["file"] == "1.mp4"
    code, out, _ = run(capsys, index, "a star", "--folder", "inner", "--json")
    assert {json.loads(line)["file"] for line in out.splitlines()} == {"inner/long.mp4"}


def test_names_and_captions_are_shown_without_escape_codes(tmp_path):
    name = os.fsdecode(b"caf\xe9 \x1b[2J.mp4")
    caption = [[0.0, 1.0, "not here"], [2.5, 9.0, "\x1b[31mspins\u202e"]]
    index = plant(tmp_path / "i", {name: {"v": {0.0: noise(0), 3.0: unit(0)}, "captions": caption}})
    (hit,) = index.search(words(unit(0)), top=1)
    line = as_line(hit)
    assert line.isprintable()
    assert r"caf\udce9 \x1b[2J.mp4" in line
    assert r"\x1b[31mspins\u202e" in line
    assert json.loads(json_line(hit.as_json()))["file"] == name


def test_captions_beside_a_film_are_kept(made):
    index = Index.open(made / "index")
    captions = [index.window(row).caption for row in range(len(index)) if index.window(row).file.name == "1.mp4"]
    assert captions == ["a red star", "a red star", "spins", "spins"]


def test_an_open_index_answers_as_the_command_does(made):
    index = Index.open(made / "index")
    row = index.rows.start_s.tolist().index(1.0)
    window = index.window(row)
    like = index.search(index.encoder.like(row), top=1)[0]
    assert (like.window.row, like.score) == (row, pytest.approx(1.0, abs=1e-3))
    spec = index.input
    film = index.encoder.film(window.file.path, at=2.0)
    from vatt.data.augment import CentreView
    from vatt.data.decode import decode_window

    seen = decode_window(window.file.path, lambda seconds: 1.0, CentreView(), spec)
    mine = index.encoder.of_frames(seen.frames_TSS3)
    np.testing.assert_allclose(mine.vectors["video-audio"], film.vectors["video-audio"], atol=1e-5)
    heard = index.encoder.of_sound(np.stack([seen.audio_L, np.zeros_like(seen.audio_L)]))  # the silent one is left out
    exact = index.encoder.sound(window.file.path, at=2.0)
    np.testing.assert_allclose(heard.vectors["audio-video"], exact.vectors["audio-video"], atol=1e-5)
    with pytest.raises(SearchError, match="is silent"):
        index.encoder.of_sound(np.zeros(spec.samples, np.float32))
    with pytest.raises(SearchError, match=r"film: expected windows of \(4, 32, 32, 3\), uint8, got"):
        index.encoder.of_frames(torch.zeros(1, 4, 32, 32, 3))
    assert index.again() is None


def test_what_cannot_be_asked_is_said_in_a_line(made, tmp_path, capsys):
    index, films = made / "index", made / "films"
    (tmp_path / "bad.mp4").write_bytes(b"no")
    for arguments, message in (
        ([index], "nothing to look for"),
        ([tmp_path / "gone", "a star"], "no such folder; make an index with: vatt index"),
        ([films, "a star"], "has no index.json"),
        ([index, "xylophone"], "text: 'xylophone' holds no word that the model knows"),
        (
            [index, "a dog barks"],
            "barks': the model does not know 'dog', 'barks', and 'a' alone says nothing",
        ),
        ([index, "a star", "--text", "b"], "the words are given twice"),
        ([index, "a star", "--in", "sound"], "no common space of words and sounds"),
        ([index, "a star", "--weights", "audio=2"], "--weights: 'audio=2': must be K=W with a number W and K of text"),
        ([index, "a star", "--weights", "text=nan"], "--weights: 'text=nan'"),
        ([index, "a star", "--weights", "text=0"], "--weights: all are 0"),
        ([index, "a star", "--max-length", "nan"], "--max-length: must be a number"),
        ([index, "\udcff"], "holds no word"),
        ([index, "a star", "--device", "meta"], "device: meta: computes nothing"),
        ([index, "a star", "--top", "0"], "--top: must be 1 or more"),
        ([index, "--video", tmp_path / "bad.mp4"], "cannot be decoded"),
        ([index, "--video", films / "0.mp4@99"], "0.mp4: @99: is behind the end of the file, which is 5.00 s long\n"),
        ([index, "--audio", films / "0.mp4@99"], "0.mp4: @99: is behind the end of the file, which is 5."),
        ([index, "--audio", tmp_path / "gone.wav"], "no such file"),
        ([index, "--image", films / "0.mp4@1"], "no such file"),
    ):
        code, out, err = run(capsys, *arguments)
        assert (code, out) == (1, ""), arguments
        assert message in err
        assert err.startswith("error: ")
        assert err.count("\n") == 1
    assert run(capsys, index, "a star", "--folder", "gone")[:2] == (0, "nothing was found in the folder gone\n")


def test_a_search_with_another_model_is_refused(made, tmp_path, capsys):
    config = small_config()
    config.name = "stranger"
    config.head.d_va = 10
    save_model(tmp_path / "m", config)
    code, _, err = run(capsys, made / "index", "a star", "--model", tmp_path / "m")
    assert code == 1
    assert "was made with the model vatt-tiny of" in err
    assert "not with stranger of" in err
    shutil.copytree(made / "index", tmp_path / "i")
    about = json.loads((tmp_path / "i" / ABOUT).read_text())
    about["model"]["path"] = "/nowhere"
    (tmp_path / "i" / ABOUT).write_text(json.dumps(about))
    code, _, err = run(capsys, tmp_path / "i", "a star")
    assert "its model cannot be read" in err
    assert run(capsys, tmp_path / "i", "a star", "--model", model_folder(made / "model"))[0] == 0


def test_a_joint_head_compares_words_with_sounds_too(tmp_path):
    save_model(tmp_path / "model", small_config(head="joint"))
    make_films(tmp_path / "films")
    index = Index.open(make_index(tmp_path))
    assert index.spaces == {"video": 12, "audio": 12}
    words_ = index.encoder.words("a red star")
    names = {hit.window.file.name for hit in index.search(words_, 20, fold=False)}
    assert names == {file.name for file in index.files}  # the sound file, too
    heard = index.search(index.encoder.words("a red star", target="sound"), 1)[0]
    assert heard.cosines.keys() == {"text"}
