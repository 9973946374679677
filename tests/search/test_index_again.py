"""Another start of `vatt index`: what it takes up that changed alone, and what a kill, damage or a poor disk leaves."""

from __future__ import annotations

import errno
import os
import shutil
from itertools import count

import numpy as np
import pytest

from tests.data.media import write
from tests.file_operations import killed_at
from tests.inference.library_models import save_model
from tests.search.tiny import copied, job
from vatt import files
from vatt.__main__ import main
from vatt.files import remove_partly
from vatt.search import Index, SearchError, build_index, compaction, probing
from vatt.search import index as index_module
from vatt.search.compaction import compact
from vatt.search.format import SEGMENTS, Batch, read_segment, segment_paths, write_segment
from vatt.search.probing import OPENED
from vatt.search.state import State


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model, four sounds of 3 s, captions beside one, and an index of them with a segment each."""
    folder = tmp_path_factory.mktemp("made")
    save_model(folder / "model")
    (folder / "films").mkdir()
    for number, name in enumerate("abcd"):
        sound = np.random.default_rng(number).uniform(-0.5, 0.5, 3 * 8000).astype(np.float32)
        write(folder / "films" / f"{name}.wav", None, sound=sound, rate=8000, audio_codec="pcm_s16le")
    (folder / "films" / "a.txt").write_text("a red star")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vatt.search.writing._ROWS", 1)
        build_index(job(folder, batch_size=2))
    return folder


@pytest.fixture
def own(made, tmp_path):
    """The same, for a test to change."""
    return copied(made, tmp_path)


def again(own, **options):
    return build_index(job(own, moved=True, batch_size=2, **options))


def content(index):
    """Each file, window, vector and caption, bit for bit."""
    found = Index.open(index)
    windows = [(window.file.name, window.start_s, window.caption) for window in map(found.window, range(len(found)))]
    return windows, {name: found.vectors(name).tobytes() for name in found.spaces}


def captions(own):
    return {name: caption for name, _, caption in content(own / "index")[0]}


def opened(out):
    widths = Index.open(out).spaces
    segments, state = [read_segment(path, widths) for path in segment_paths(out)], State()
    state.apply(segments)
    return segments, state, widths


@pytest.mark.parametrize("exchange", [True, False])
def test_a_kill_at_any_moment_of_putting_segments_together_loses_nothing(made, tmp_path, monkeypatch, exchange):
    """Also where the file system cannot exchange two names."""
    if not exchange:
        monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    expected, lengths = content(made / "index"), set()
    for number in count():
        out = shutil.copytree(made / "index", tmp_path / str(number))
        segments = opened(out)
        came = killed_at(number, lambda out=out, segments=segments: compact(out, *segments))
        if exchange:
            assert content(out) == expected  # readers see an index at any moment
        remove_partly(out, SEGMENTS)  # as the next start does
        assert content(out) == expected, f"operation {number}"
        assert [path.name for path in out.iterdir() if path.name.startswith(".")] == []
        lengths.add(len(segment_paths(out)))
        if not came:
            break
    assert lengths == {4, 1}
    assert number > 5


def test_who_opens_an_index_while_it_is_put_together_sees_all_of_it(own, monkeypatch):
    """Not the old first segment, with a file, beside new ones of the same names, which may hold anything."""
    expected, calls = content(own / "index"), []
    segments = opened(own / "index")
    read = index_module.read_segment

    def slow(path, widths):
        segment = read(path, widths)
        calls.append(path.name)
        if len(calls) == 1:
            compact(own / "index", *segments)
            for number in (1, 2, 3):
                write_segment(own / "index" / SEGMENTS / f"{number:08d}.safetensors", Batch(), widths)
        return segment

    monkeypatch.setattr(index_module, "read_segment", slow)
    assert content(own / "index") == expected
    assert len(calls) == 8


def test_a_disk_without_hard_links_keeps_damaged_segments_too(own, monkeypatch):
    damaged = own / "index" / SEGMENTS / "00000009.safetensors.damaged"
    damaged.write_bytes(b"what was there")

    def link(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    monkeypatch.setattr(compaction, "_MANY", 1)
    before = content(own / "index")
    again(own)
    assert len(segment_paths(own / "index")) == 1
    assert (content(own / "index"), damaged.read_bytes()) == (before, b"what was there")


def test_files_are_opened_once_whatever_stops_the_job(own, monkeypatch):
    tried, told = [], []

    def probe(item):
        tried.append(item[0].name)
        return original(item)

    original = probing._probe_one
    monkeypatch.setattr(probing, "_probe_one", probe)

    def stop(done, total, faults, what):
        if done == 2:
            raise KeyboardInterrupt

    out = own / "other"
    with pytest.raises(KeyboardInterrupt):
        build_index(job(own, out=out), opening=stop)
    with (out / OPENED).open("a") as lines:  # what a full disk or a stranger may leave
        lines.write('{"id": 5, "seconds": -1}\n{"id": "x", "seconds": 1e999, "picture": true, "sound": true}\n{"id"')
    build_index(job(own, out=out), opening=lambda *what: told.append(what))
    assert tried == ["a.wav", "b.wav", "c.wav", "d.wav"]
    assert told == [(3, 4, 0, "files opened"), (4, 4, 0, "files opened")]
    assert not (out / OPENED).exists()
    assert content(out)[0] == content(own / "index")[0]


def test_captions_that_change_alone_are_taken_up(own, capsys):
    films = own / "films"
    assert captions(own) == {"a.wav": "a red star", "b.wav": "", "c.wav": "", "d.wav": ""}
    (films / "a.txt").write_text("a blue star")
    (films / "b.srt").write_text("1\n00:00:00,000 --> 00:00:03,000\nspins\n")
    command = ["index", films, "--model", own / "model", "--out", own / "index", "--moved", "--workers", "0"]
    assert main([*map(str, command)]) == 0
    assert "index: 4 files, 8 windows; 2 with other captions\n" in capsys.readouterr().out
    assert captions(own) == {"a.wav": "a blue star", "b.wav": "spins", "c.wav": "", "d.wav": ""}
    (films / "b.srt").unlink()
    (films / "a.wav").rename(films / "x.wav")  # without what is said of it
    shutil.copy(films / "c.wav", films / "y.wav")
    (films / "y.txt").write_text("a copy")
    done = again(own)
    assert (dict(done.counts), done.embedded) == ({"captions": 1, "moved": 1, "copied": 1}, 0)
    assert captions(own) == {"b.wav": "", "c.wav": "", "d.wav": "", "x.wav": "", "y.wav": "a copy"}
    os.utime(films / "y.txt", (1, 1))
    assert again(own).counts == {}  # the same words


def test_a_copy_that_is_renamed_was_moved(own):
    """Also one that was embedded beside its original, in the same start."""
    shutil.copy(own / "films" / "a.wav", own / "films" / "e.wav")
    out = own / "other"
    assert build_index(job(own, out=out)).counts == {"new": 5}
    (own / "films" / "e.wav").rename(own / "films" / "f.wav")
    assert build_index(job(own, out=out)).counts == {"moved": 1}


def test_captions_and_labels_of_a_manifest_are_taken_up(own):
    manifest = own / "m.csv"
    for text, label, counts in (
        ("a star", "left", {"new": 1}),
        ("a circle", "left", {"captions": 1}),
        ("a circle", "right", {"label": 1}),
        ("a circle", "right", {}),
    ):
        manifest.write_text(f"audio,caption,label\nfilms/c.wav,{text},{label}\n")
        assert build_index(job(own, source=manifest, out=own / "other")).counts == counts
        window = Index.open(own / "other").window(0)
        assert (window.caption, window.file.label) == (text, label)


def test_vectors_that_are_no_numbers_are_not_found_and_done_again(own, caplog, monkeypatch):
    before = content(own / "index")
    path = segment_paths(own / "index")[1]
    segment = read_segment(path, Index.open(own / "index").spaces)
    vectors = {name: [x_ND.copy()] for name, x_ND in segment.vectors.items()}
    vectors["audio-video"][0][1, 3] = np.nan
    has = {name: [x_N.astype(np.uint8)] for name, x_N in segment.has.items()}
    columns = (segment.content_N.tolist(), segment.start_N.tolist(), segment.end_N.tolist())
    monkeypatch.setattr("vatt.weights.tensors.check_finite", lambda *_: None)  # as a writer that does not look
    write_segment(path, Batch(*columns, vectors, has, segment.records), Index.open(own / "index").spaces)
    monkeypatch.undo()
    index = Index.open(own / "index")
    like = index.encoder.like(0)
    scores, known = index.scores(like)
    assert (known.sum(), np.isfinite(scores[known]).all()) == (7, True)
    assert [hit.window.row for hit in index.search(like, top=1)] == [0]
    done = again(own)
    assert (done.redone, done.embedded) == ([f"{path.name}.damaged"], 2)
    assert f"{path.name}: audio-video holds values that are not finite (1 of 24)" in caplog.text
    assert content(own / "index") == before


def test_a_segment_with_records_that_cannot_be_is_set_aside(own):
    """As an index of before, which took what the header of a film said for its length: below 0."""
    before = content(own / "index")
    path = segment_paths(own / "index")[0]
    segment = read_segment(path, Index.open(own / "index").spaces)
    segment.records[0]["seconds"] = -5.0
    vectors = {name: [x_ND.copy()] for name, x_ND in segment.vectors.items()}
    has = {name: [x_N.astype(np.uint8)] for name, x_N in segment.has.items()}
    columns = (segment.content_N.tolist(), segment.start_N.tolist(), segment.end_N.tolist())
    write_segment(path, Batch(*columns, vectors, has, segment.records), Index.open(own / "index").spaces)
    with pytest.raises(SearchError, match=r"00000000\.safetensors: a record is no file and no content"):
        Index.open(own / "index")
    assert again(own).redone == [f"{path.name}.damaged"]
    assert content(own / "index") == before


def test_an_index_without_segments_is_told_and_made_again(own):
    before = content(own / "index")
    for path in segment_paths(own / "index"):
        path.unlink()
    with pytest.raises(SearchError, match=r"index: has no segment in segments/: they were removed, or vatt index has"):
        Index.open(own / "index")
    assert again(own).counts == {"new": 4}
    assert content(own / "index") == before


def test_files_that_give_nothing_are_counted_apart(own, capsys):
    (own / "films" / "bad.mp4").write_bytes(b"no film")
    shutil.copy(own / "films" / "a.wav", own / "films" / "e.wav")
    sound = np.random.default_rng(9).uniform(-0.5, 0.5, 2 * 8000).astype(np.float32)
    write(own / "films" / "f.wav", None, sound=sound, rate=8000, audio_codec="pcm_s16le")
    command = ["index", own / "films", "--model", own / "model", "--out", own / "index", "--moved", "--workers", "0"]
    assert main([*map(str, command)]) == 0
    printed = capsys.readouterr()
    said = "index: 6 files, 11 windows; 1 new, 1 left out, 1 copied; 1 window embedded, "
    assert said in printed.out
    assert " s in all\n" in printed.out
    assert "left out, wholly or in part: 1 file; why: " in printed.err


def test_an_open_index_takes_up_where_the_files_are_now(own):
    """Nothing but index.json changes when the whole folder gets another name."""
    build_index(job(own, moved=True))
    index = Index.open(own / "index")
    (own / "films").rename(own / "renamed")
    build_index(job(own, source=own / "renamed"))
    assert index.again().files[0].path.parent == own / "renamed"
