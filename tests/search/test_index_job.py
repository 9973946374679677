"""`vatt index`: what an index holds, and that it stays right when files change and jobs are killed."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.data.media import write
from tests.inference.library_models import media, save_model, small_config
from tests.search.tiny import copied, job, make_index
from vatt import VATT, Clip
from vatt.__main__ import main
from vatt.search import Index, SearchError, build_index
from vatt.search.format import SEGMENTS, read_segment, segment_paths, write_segment
from vatt.search.listing import merged
from vatt.search.windows import make_groups, window_starts

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model, films, and an index of them that no test changes."""
    folder = tmp_path_factory.mktemp("made")
    make_index(folder)
    return folder


@pytest.fixture
def own(made, tmp_path):
    """The same, for a test to change; times of the files are kept."""
    copied(made, tmp_path)
    about = tmp_path / "index" / "index.json"
    content = json.loads(about.read_text())
    content["source"] = str(tmp_path / "films")
    about.write_text(json.dumps(content))
    return tmp_path


def listed(index):
    rows = index.rows
    names = [index.files[number].name for number in rows.file]
    return list(zip(names, rows.start_s.tolist(), rows.end_s.tolist(), strict=True))


def assert_equal(one: Path, other: Path):
    """Row for row the same windows with the same bits, whatever the segments are."""
    a, b = Index.open(one), Index.open(other)
    assert listed(a) == listed(b)
    for name in a.spaces:
        np.testing.assert_array_equal(a.vectors(name), b.vectors(name))
        np.testing.assert_array_equal(a.has(name), b.has(name))


def assert_same_windows(index, other, without):
    """The windows of ``other`` but for one file; of other groups, so with sums in another order."""
    rows = [row for row, (name, _, _) in enumerate(listed(other)) if name != without]
    assert listed(index) == [listed(other)[row] for row in rows]
    for name in index.spaces:
        np.testing.assert_allclose(index.vectors(name), other.vectors(name, rows), atol=2e-3)


def test_windows_cover_whole_files_and_have_the_vectors_of_the_library(made):
    index = Index.open(made / "index")
    of_five = [(float(n), float(n + 2)) for n in range(4)]
    expected = {f"{n}.mp4": of_five for n in range(3)}
    expected |= {"inner/long.mp4": [(float(n), float(n + 2)) for n in range(6)]}
    expected |= {"noise.wav": [(float(n), float(n + 2)) for n in range(3)]}
    found = {}
    for name, start, end in listed(index):
        found.setdefault(name, []).append((start, end))
    assert found == expected
    assert [file.seconds for file in index.files] == pytest.approx([5, 5, 5, 7, 4], abs=0.2)
    model = VATT.from_pretrained(made / "model")
    row = next(n for n, one in enumerate(listed(index)) if one[:2] == ("inner/long.mp4", 3.0))
    clip = Clip(made / "films/inner/long.mp4", 3.0, 5.0)
    for name, alone in (
        ("video-text", model.embed_video(clip, space="text", windows=1)),
        ("video-audio", model.embed_video(clip, space="audio", windows=1)),
        ("audio-video", model.embed_audio(clip, windows=1)),
    ):  # of a stretch that was decoded at once, in float16; the filter of resampling sees more of the sound
        assert float(index.vectors(name, [row])[0] @ alone.numpy()) > 0.9999
    silent = index.rows.file == [file.name for file in index.files].index("noise.wav")
    assert not index.has("video-text")[silent].any()
    assert index.has("audio-video")[silent].all()


def test_starts_of_windows_are_exact_and_reach_the_end():
    spec = small_config().input  # 4 frames at 2 a second: 2 s
    assert window_starts([[None, None]], 5.0, spec, 2) == [0, 2, 4, 6]
    assert window_starts([[None, None]], 5.6, spec, 2) == [0, 2, 4, 6, 7]
    assert window_starts([[None, None]], 1.0, spec, 2) == [0]
    assert window_starts([[None, None]], 0.0, spec, 2) == [0]
    assert window_starts([[1.0, 4.0], [10.0, 10.5]], 60.0, spec, 2) == [2, 4, 18]
    assert window_starts([[None, None]], 1e9, spec, 1)[-1] < 300_000  # whatever a header claims
    assert merged([[5.0, 6.0], [None, 2.0], [1.5, 3.0], [6.0, None], [7.0, 8.0]]) == [[None, 3.0], [5.0, None]]


def test_groups_of_what_is_left_are_those_of_the_whole():
    spec = small_config().input
    todo = [(0, 0, [0, 2, 4]), (1, 0, list(range(0, 30, 2))), (2, 0, [0]), (3, 0, [0, 20, 22])]
    groups = list(make_groups(todo, 4, spec))
    assert [sum(len(s.starts) for s in group) for group in groups] == [4, 4, 4, 4, 4, 2]
    done = {0: 3, 1: 5}  # of the first two groups
    left = [(entry, done.get(entry, 0), starts) for entry, _, starts in todo if done.get(entry, 0) < len(starts)]
    assert list(make_groups(left, 4, spec)) == groups[2:]
    assert all(s.frames(spec) <= 4 * len(s.starts) for group in groups for s in group)  # none over the gap of file 3


def test_what_has_changed_is_done_again_and_nothing_else(own, capsys):
    films = own / "films"
    (films / "0.mp4").rename(films / "inner" / "moved.mp4")
    shutil.copyfile(films / "1.mp4", films / "copy.mp4")
    (films / "2.mp4").unlink()
    os.utime(films / "1.mp4", (1, 1))  # another time, the same content
    media(films / "new", count=1, seconds=3.0)
    write(
        films / "noise.wav",
        None,
        sound=np.sin(np.arange(3 * 8000) / 9).astype(np.float32),
        rate=8000,
        audio_codec="pcm_s16le",
    )
    done = build_index(job(own))
    assert dict(done.counts) == {"moved": 1, "copied": 1, "deleted": 1, "same": 1, "new": 1, "changed": 1}
    assert done.embedded == 2 + 2  # 3 s each
    fresh = own / "fresh"
    build_index(job(own, out=fresh))
    a, b = Index.open(own / "index"), Index.open(fresh)
    assert listed(a) == listed(b)
    assert [file.name for file in a.files] == [
        "1.mp4",
        "copy.mp4",
        "inner/long.mp4",
        "inner/moved.mp4",
        "new/0.mp4",
        "noise.wav",
    ]
    for name in a.spaces:  # other groups, so other sums
        np.testing.assert_allclose(a.vectors(name), b.vectors(name), atol=2e-3)
    assert build_index(job(own)).counts == {}
    (films / "inner" / "moved.mp4").rename(own / "away.mp4")
    assert build_index(job(own)).counts == {"deleted": 1}
    assert "inner/moved.mp4" not in {file.name for file in Index.open(own / "index").files}
    (own / "away.mp4").rename(films / "0.mp4")
    done = build_index(job(own))
    assert (dict(done.counts), done.embedded) == ({"back": 1}, 0)  # its windows were still there


def test_an_index_is_compacted_and_holds_the_same(own, monkeypatch):
    monkeypatch.setattr("vatt.search.writing._ROWS", 4)  # many segments
    build_index(job(own, out=own / "many", batch_size=4))
    monkeypatch.setattr("vatt.search.compaction._MANY", 1)
    (own / "films" / "2.mp4").unlink()
    before = len(segment_paths(own / "many"))
    reader = Index.open(own / "many")
    vectors = reader.vectors("video-audio")
    build_index(job(own, out=own / "many"))
    assert (before > 3, len(segment_paths(own / "many"))) == (True, 1)
    np.testing.assert_array_equal(reader.vectors("video-audio"), vectors)  # one that is open goes on
    reader.encoder.model  # noqa: B018  # is loaded
    reader, before = reader.again(), reader
    assert reader.encoder.model is before.encoder.model
    assert len(reader) == len(vectors) - 4
    assert_same_windows(reader, Index.open(own / "index"), without="2.mp4")
    build_index(job(own, out=own / "many"))  # an update of a compacted one
    segment = read_segment(segment_paths(own / "many")[0], reader.spaces)
    assert len(segment) == len(reader)


def killed(job, windows):
    """Starts a job in a process that kills itself when so many windows are done."""
    pid = os.fork()
    if pid == 0:
        torch.set_num_threads(1)

        def tell(done, total, faults):
            if done >= windows:
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            build_index(job, tell)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_kill_9_in_the_middle_loses_nothing(own, monkeypatch):
    """The next start does the rest, and all is bit for bit the same as without."""
    monkeypatch.setattr("vatt.search.writing._ROWS", 4)
    out = own / "killed"
    assert killed(job(own, out=out, workers=1, batch_size=3), 9) == -signal.SIGKILL
    (out / SEGMENTS / ".00000009.safetensors.partly").write_bytes(b"half")
    found = Index.open(out)  # what was done can be searched
    assert 0 < len(found) < 21
    again = build_index(job(own, out=out, batch_size=3))
    assert again.embedded == 21 - len(found)
    assert (again.files, again.windows) == (5, 21)
    build_index(job(own, out=own / "whole", batch_size=3))
    assert_equal(out, own / "whole")


def test_an_interrupt_while_a_segment_is_written_loses_nothing(own, monkeypatch):
    """What was collected is written once more on the way out, and no window is counted without its vectors."""
    calls = []

    def interrupted(path, batch, widths):
        calls.append(path)
        if len(calls) == 2:
            raise KeyboardInterrupt
        write_segment(path, batch, widths)

    monkeypatch.setattr("vatt.search.writing._ROWS", 4)
    monkeypatch.setattr("vatt.search.writing.write_segment", interrupted)
    out = own / "interrupted"
    with pytest.raises(KeyboardInterrupt):
        build_index(job(own, out=out, batch_size=3))
    found = Index.open(out)
    assert len(calls) == 3
    assert len(found) == 12
    assert build_index(job(own, out=out, batch_size=3)).embedded == 21 - len(found)
    assert listed(Index.open(out)) == listed(Index.open(own / "index"))


def test_a_damaged_segment_is_told_and_done_again(own, caplog):
    path = segment_paths(own / "index")[0]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    done = build_index(job(own))
    assert done.redone == [f"{path.name}.damaged"]
    assert done.embedded == 21
    assert "is damaged" in caplog.text
    path = segment_paths(own / "index")[0]
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(SearchError, match=f"{path.name}: cannot be read: its tensors do not fill the file"):
        Index.open(own / "index")


def test_another_model_other_settings_and_another_source_are_refused(own, capsys):
    other = small_config()
    other.name = "other-model"
    other.head.d_vat = 6
    save_model(own / "other", other)
    base = ["index", str(own / "films"), "--out", str(own / "index"), "--device", "cpu", "--workers", "0"]
    for more, message in (
        (["--model", str(own / "other")], "was made with the model vatt-tiny of "),
        (["--model", str(own / "model"), "--hop", "0.5"], "made with other settings: hop_s was 1.0, is 0.5"),
        (["--model", str(own / "model"), "--hop", "0"], "hop: must be more than 0 seconds"),
        (["--model", str(own / "model"), "--batch-size", str(10**30)], "batch_size: must be 1,000,000 or less"),
        (["--model", str(own / "model"), "--device", "gpu7"], "'gpu7' is no device of PyTorch"),
        (["--model", str(own / "films")], "model.safetensors"),
    ):
        assert main([*base, *more]) == 1
        printed = capsys.readouterr()
        assert message in printed.err
        assert (printed.err[:7], printed.out, printed.err.count("\n")) == ("error: ", "", 1)
    assert f"not with other-model of {own / 'other'}" in _error(capsys, [*base, "--model", str(own / "other")])
    (own / "there").mkdir()
    shutil.copy(own / "films" / "0.mp4", own / "there")
    elsewhere = ["index", str(own / "there"), *base[2:], "--model", str(own / "model")]
    assert "is an index of" in _error(capsys, elsewhere)
    (own / "films").rename(own / "renamed")  # a source that has moved is the same
    assert main(["index", str(own / "renamed"), *base[2:], "--model", str(own / "model")]) == 0
    assert "nothing has changed" in capsys.readouterr().out
    assert Index.open(own / "index").files[0].path == own / "renamed" / "0.mp4"
    (own / "mine").mkdir()
    (own / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(SearchError, match=r"mine: is there, and is no index"):
        build_index(job(own, source=own / "there", out=own / "mine"))


def _error(capsys, arguments):
    assert main(arguments) == 1
    return capsys.readouterr().err


def test_words_that_lie_elsewhere_are_found_again(own, capsys):
    """Of a model folder without tokenizer.json, as of a converted one."""
    save_model(own / "bare", tokenizer=False)
    words, out, source = own / "words.txt", own / "other", own / "sounds"
    words.write_text("<pad>\n<unk>\nred\ncircle\n")
    source.mkdir()
    shutil.copy(own / "films" / "noise.wav", source)
    build_index(job(own, model=own / "bare", out=out, source=source, vocabulary=words))
    query = Index.open(out, own / "bare").encoder.words("red circle")
    assert query.vectors["video-text"].shape == (8,)
    words.write_text("<pad>\n<unk>\ncircle\nred\n")
    assert "was made with the model" in _error(capsys, ["search", str(out), "red circle"])


def test_bad_files_are_told_and_skipped(own, capsys):
    films = own / "films"
    (films / "bad.mp4").write_bytes(b"not a video")
    whole = (films / "0.mp4").read_bytes()
    (films / "0.mp4").write_bytes(whole[: len(whole) // 2] + bytes(len(whole) // 4) + whole[3 * len(whole) // 4 :])
    write(films / "silent.wav", None, sound=np.zeros(3 * 8000, np.float32), rate=8000, audio_codec="pcm_s16le")
    name = os.fsdecode(b"caf\xe9 \x1b[31m.mp4")
    shutil.copy(films / "1.mp4", films / name)
    assert (
        main(
            [
                "index",
                str(films),
                "--model",
                str(own / "model"),
                "--out",
                str(own / "index"),
                "--device",
                "cpu",
                "--workers",
                "1",
            ]
        )
        == 0
    )
    printed = capsys.readouterr()
    assert re.search(r"^left out, wholly or in part: [23] files; why: .*faults.jsonl$", printed.err, re.MULTILINE)
    faults = [json.loads(line) for line in (own / "index" / "faults.jsonl").read_text().splitlines()]
    reasons = {fault["file"]: fault["reason"] for fault in faults}
    assert "cannot be decoded" in reasons["bad.mp4"]
    assert reasons["silent.wav"] == "is silent"
    assert reasons.keys() <= {"bad.mp4", "silent.wav", "0.mp4"}
    index = Index.open(own / "index")
    assert name in {file.name for file in index.files}
    again = build_index(job(own))
    assert (again.embedded, again.faults) == (0, len(faults))  # faults are not tried again
    shutil.copy(films / "1.mp4", films / "bad.mp4")
    assert build_index(job(own)).counts == {"changed": 1}  # a file that was mended is


def test_nothing_at_all_is_an_error(made, tmp_path, capsys):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.mp4").write_bytes(b"no")
    (tmp_path / "empty").mkdir()
    for source, message in (
        ("bad", "nothing could be embedded; see"),
        ("empty", "holds no video"),
        ("gone", "no such folder"),
    ):
        out = str(tmp_path / f"{source}-index")
        assert message in _error(
            capsys, ["index", str(tmp_path / source), "--model", str(made / "model"), "--out", out, "--workers", "0"]
        )


def test_a_manifest_names_files_and_parts_of_them(made, tmp_path):
    films = made / "films"
    manifest = tmp_path / "m.csv"
    rows = [
        "video,start,end,caption,label,split",
        f"{films}/0.mp4,0,2,a star,left,train",
        f"{films}/0.mp4,3,5,b,,train",
    ]
    rows += [f"{films}/inner/long.mp4,,,c,,val", f"{films}/gone.mp4,,,d,,train"]
    manifest.write_text("\n".join(rows) + "\n")
    done = build_index(job(made, source=manifest, out=tmp_path / "i", split="train"))
    assert (done.files, done.windows, done.faults) == (1, 2, 1)
    index = Index.open(tmp_path / "i")
    assert [(start, end) for _, start, end in listed(index)] == [(0.0, 2.0), (3.0, 5.0)]
    assert index.files[0].path == films / "0.mp4"
    assert index.files[0].label == "left"
    assert [index.window(row).caption for row in range(2)] == ["a star", "b"]


def test_several_processes_make_the_same_index(made, tmp_path, monkeypatch):
    monkeypatch.setattr("vatt.search.crew._START", "fork")  # not to import all of PyTorch twice
    build_index(job(made, out=tmp_path / "two", devices=("cpu", "cpu"), batch_size=3))
    build_index(job(made, out=tmp_path / "one", batch_size=3))
    assert_equal(tmp_path / "two", tmp_path / "one")


def test_one_process_writes_at_a_time(own):
    code = (
        "import fcntl, sys; lock = open(sys.argv[1], 'w'); fcntl.lockf(lock, fcntl.LOCK_EX); "
        "print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(own / "index" / "lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(SearchError, match="another process writes there"):
            build_index(job(own))
        other.stdin.close()
