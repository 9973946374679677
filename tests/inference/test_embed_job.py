"""``vatt embed``: whole data sets to a file, and on again after an interruption."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.inference.library_models import media, save_model
from tests.numerics import assert_as_exact_as_eager
from vatt import VATT, Clip
from vatt.__main__ import main
from vatt.inference.job import EmbedJob, embed_dataset, read_items
from vatt.inference.output import EmbedError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model") / "m")


@pytest.fixture(scope="module")
def model(folder):
    return VATT.from_pretrained(folder)


@pytest.fixture(scope="module")
def exact(folder):
    """The model in float64."""
    return VATT.from_pretrained(folder).double()


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Four good files, a bad one in the middle, and a sidecar of captions."""
    videos = tmp_path_factory.mktemp("media")
    media(videos)
    (videos / "1b.mp4").write_bytes(b"not a video")
    (videos / "2.txt").write_text("a red star\nthe circle moves\n")
    return videos


def job(videos, folder, out, **options):
    return EmbedJob(videos, folder, out, **{"windows": 2, "batch_size": 2, "workers": 0, **options})


def assert_rows(found, model, exact, embed):
    """What a job wrote, as exact as ``embed(model)``: its batches are others, and so is the order of its sums."""
    assert_as_exact_as_eager(torch.from_numpy(found), embed(model), embed(exact))


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_rows_are_in_the_order_of_the_files_and_faults_are_listed(videos, folder, model, exact, tmp_path, capsys):
    out = tmp_path / "sub" / "v.npy"
    options = ["--out", str(out), "--windows", "2", "--batch-size", "2", "--workers", "1", "--device", "cpu"]
    assert main(["embed", str(videos), "--model", str(folder), *options]) == 0
    printed = capsys.readouterr()
    assert "4 rows; 5 clips in" in printed.out
    assert "clips/s" in printed.out
    assert "1 could not be embedded" in printed.err
    about = json.loads(out.with_suffix(".json").read_text())
    files = [videos / f"{n}.mp4" for n in range(4)]
    assert [row["file"] for row in about["rows"]] == [str(f) for f in files]
    assert (about["n"], about["faults"], about["dimensions"]) == (4, 1, 8)
    assert about["model"] == str(folder)
    assert about["settings"]["windows"] == 2
    x = np.load(out)
    assert x.dtype == np.float32
    assert_rows(x, model, exact, lambda m: m.embed_video(files, windows=2))
    (fault,) = lines(out.with_suffix(".faults.jsonl"))
    assert fault["file"] == str(videos / "1b.mp4")
    assert "cannot be decoded" in fault["reason"]
    assert sorted(p.name for p in out.parent.iterdir()) == ["v.faults.jsonl", "v.json", "v.npy"]
    assert main(["embed", str(videos), "--model", str(folder), *options]) == 0
    assert "nothing was left to embed; 4 rows" in capsys.readouterr().out
    assert main(["embed", str(videos), "--model", str(folder), *options, "--space", "audio"]) == 1
    assert "space was 'text', is 'audio'" in capsys.readouterr().err


class Stopped(Exception):
    pass


def stop_after(items):
    def progress(done, total, faults):
        assert total == 5
        if done >= items:
            raise Stopped

    return progress


def test_goes_on_after_an_interruption(videos, folder, model, exact, tmp_path):
    whole, out = tmp_path / "whole.npy", tmp_path / "v.npy"
    embed_dataset(job(videos, folder, whole))
    with pytest.raises(Stopped):
        embed_dataset(job(videos, folder, out), stop_after(2))
    assert not out.exists()
    with pytest.raises(EmbedError, match=r"v\.parts: made with other settings: windows was 2, is 3"):
        embed_dataset(job(videos, folder, out, windows=3))
    with pytest.raises(EmbedError, match=r"precision was 'torch\.float32', is 'torch\.bfloat16'"):
        embed_dataset(job(videos, folder, out, precision="bf16"))
    with pytest.raises(Stopped):
        embed_dataset(job(videos, folder, out, batch_size=1), stop_after(3))
    seen = []
    done = embed_dataset(job(videos, folder, out), lambda *counts: seen.append(counts))
    assert (done.items, done.rows, done.faults) == (2, 4, 1)
    assert seen == [(5, 5, 1)]  # of the items that were left; the fault before is counted
    files = [videos / f"{n}.mp4" for n in range(4)]
    assert_rows(np.load(out), model, exact, lambda m: m.embed_video(files, windows=2))
    assert out.with_suffix(".faults.jsonl").read_text() == whole.with_suffix(".faults.jsonl").read_text()
    rows = [json.loads(p.with_suffix(".json").read_text())["rows"] for p in (out, whole)]
    assert rows[0] == rows[1]
    assert not out.with_suffix(".parts").exists()
    half = tmp_path / "half.npy"
    embed_dataset(job(videos, folder, half, precision="bf16"))
    assert (np.load(half) * np.load(whole)).sum(1).min() > 0.99
    assert not np.array_equal(np.load(half), np.load(whole))


def test_a_part_that_was_cut_off_is_done_again(videos, folder, model, exact, tmp_path):
    out = tmp_path / "v.npy"
    for items in (2, 4):
        with pytest.raises(Stopped):
            embed_dataset(job(videos, folder, out), stop_after(items))
    first, _ = sorted(out.with_suffix(".parts").glob("part-*"))
    first.write_bytes(first.read_bytes()[:60])
    done = embed_dataset(job(videos, folder, out))
    assert (done.items, done.rows, done.redone) == (3, 4, [first.name])
    files = [videos / f"{n}.mp4" for n in range(4)]
    assert_rows(np.load(out), model, exact, lambda m: m.embed_video(files, windows=2))  # in order, though written last


def test_other_settings_are_named(videos, folder, tmp_path):
    out = tmp_path / "v.npy"
    embed_dataset(job(videos, folder, out))
    other = save_model(tmp_path / "m")
    (other / "config.json").write_text((other / "config.json").read_text() + " ")
    for changed, message in (
        ({"modality": "audio"}, "modality was 'video', is 'audio'; space was 'text', is 'video'"),
        ({"model": other}, "weights was"),
        ({"source": manifest(tmp_path, videos)}, r"items was '5 \(.*, is '3 \("),
    ):
        with pytest.raises(EmbedError, match=message):
            embed_dataset(job(changed.pop("source", videos), changed.pop("model", folder), out, **changed))
    with pytest.raises(EmbedError, match=r"format was '\.npy', is '\.parquet'"):
        embed_dataset(job(videos, folder, out.with_suffix(".parquet")))
    (tmp_path / "mine.json").write_text("[1]")
    with pytest.raises(EmbedError, match=r"mine\.json: is there, but not from this job"):
        embed_dataset(job(videos, folder, tmp_path / "mine.npy"))
    with pytest.raises(EmbedError, match=r"must end in \.npy or \.parquet"):
        embed_dataset(job(videos, folder, tmp_path / "v.txt"))


def manifest(folder, videos, name="m.csv"):
    """Two ranges of a file, a file that is not there, and one whose sound is looked for."""
    with (folder / name).open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["video", "start", "end", "caption"])
        writer.writerow([videos / "0.mp4", 0.5, 2.5, "a star"])
        writer.writerow([videos / "0.mp4", 1, 3, "!!"])
        writer.writerow([videos / "gone.mp4", "", "", "never"])
        writer.writerow([videos / "3.mp4", "", "", "the circle"])
    return folder / name


def test_parquet_of_a_manifest(videos, folder, model, exact, tmp_path):
    import pyarrow.parquet as pq

    out = tmp_path / "v.parquet"
    done = embed_dataset(job(manifest(tmp_path, videos), folder, out, modality="audio"))
    assert (done.rows, done.faults) == (3, 1)
    table = pq.read_table(out).to_pydict()
    assert list(table) == ["file", "start", "end", "embedding"]
    assert table["file"] == [str(videos / f"{n}.mp4") for n in (0, 0, 3)]
    assert table["start"] == [0.5, 1.0, None]
    clips = [Clip(videos / "0.mp4", 0.5, 2.5), Clip(videos / "0.mp4", 1, 3), videos / "3.mp4"]
    found = np.array(table["embedding"], np.float32)
    assert_rows(found, model, exact, lambda m: m.embed_audio(clips, windows=2))
    assert "no such file" in lines(out.with_suffix(".faults.jsonl"))[0]["reason"]
    assert "rows" not in json.loads(out.with_suffix(".json").read_text())
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".csv", ".json", ".jsonl", ".parquet"]


def test_missing_files_of_other_splits_are_no_faults(videos, tmp_path):
    path = tmp_path / "m.csv"
    rows = [f"{videos / '0.mp4'},val", "gone.mp4,train", "lost.mp4,val", "away.mp4,"]
    path.write_text("video,split\n" + "\n".join(rows) + "\n")
    of_val = ["lost", "away"]
    for split, names in ((None, ["gone", *of_val]), ("val", of_val), ("all", ["gone", *of_val])):
        found = read_items(path, "video", split)
        assert [Path(record["file"]).stem for record in found.skipped] == names
        assert all(record.keys() == {"file", "field", "reason"} for record in found.skipped)


def test_sentences_of_files_manifests_and_folders(videos, folder, model, exact, tmp_path):
    listed = tmp_path / "queries.txt"
    listed.write_text("a blue star\n\n ?\nthe circle spins\n")
    out = tmp_path / "t.npy"
    done = embed_dataset(job(listed, folder, out, modality="text"))
    assert (done.rows, done.faults) == (2, 2)
    assert_rows(np.load(out), model, exact, lambda m: m.embed_text(["a blue star", "the circle spins"]))
    faults = {record["field"]: record for record in lines(out.with_suffix(".faults.jsonl"))}
    assert faults.keys() == {"line 2", "text"}
    assert faults["text"]["text"] == "?"
    rows = {}
    for source in (manifest(tmp_path, videos), videos):
        out = tmp_path / f"{source.stem}.npy"
        embed_dataset(job(source, folder, out, modality="text"))
        rows[source] = json.loads(out.with_suffix(".json").read_text())["rows"]
    of_manifest, of_folder = rows.values()
    assert [(r["start"], r["end"], r["text"]) for r in of_manifest] == [
        (0.5, 2.5, "a star"),
        (None, None, "the circle"),
    ]
    assert [r["text"] for r in of_folder] == ["a red star", "the circle moves"]


def test_nothing_usable_is_an_error(videos, folder, tmp_path, capsys):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.mp4").write_bytes(b"no")
    (tmp_path / "empty").mkdir()
    base = ["--model", str(folder), "--workers", "0", "--device", "cpu"]
    for source, more, message in (
        (tmp_path / "bad", [], "nothing could be embedded; see"),
        (tmp_path / "empty", [], "holds no video"),
        (tmp_path / "empty", ["--modality", "audio"], "holds no sound file and no video"),
        (tmp_path / "gone", [], "no such folder or manifest"),
        (videos, ["--space", "video"], "has no 'video' for video, but text, audio, features"),
        (videos, ["--device", "gpu7"], "'gpu7' is no device of PyTorch"),
        (videos, ["--batch-size", "0"], "batch_size: must be 1 or more"),
        (videos, ["--model", str(tmp_path)], "model.safetensors"),
    ):
        out = str(tmp_path / "out" / "x.npy")
        assert main(["embed", str(source), *base, "--out", out, *more]) == 1
        printed = capsys.readouterr()
        assert message in printed.err
        assert printed.err.startswith("error: ")
        assert printed.out == ""
    bare = save_model(tmp_path / "bare", tokenizer=False)
    out = str(tmp_path / "t.npy")
    assert main(["embed", str(videos), "--model", str(bare), "--out", out, "--modality", "text"]) == 1
    assert "came without tokenizer.json" in capsys.readouterr().err
    words = tmp_path / "words.txt"
    words.write_text("<pad>\n<unk>\nstar\n")
    more = ["--modality", "text", "--vocabulary", str(words)]
    assert main(["embed", str(videos), "--model", str(bare), "--out", out, *more]) == 0


def test_two_processes_do_not_write_at_once(videos, folder, tmp_path):
    """The lock is one of the kernel's, so it is gone with the process that held it."""
    import subprocess
    import sys

    out = tmp_path / "v.npy"
    with pytest.raises(Stopped):
        embed_dataset(job(videos, folder, out), stop_after(2))
    code = (
        "import fcntl, sys; lock = open(sys.argv[1], 'w'); fcntl.lockf(lock, fcntl.LOCK_EX); "
        "print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(out.with_suffix(".parts") / "lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(EmbedError, match="another process writes there"):
            embed_dataset(job(videos, folder, out))
        other.stdin.close()
    assert embed_dataset(job(videos, folder, out)).rows == 4


def test_a_folder_of_the_user_is_not_taken_for_parts(videos, folder, tmp_path):
    (tmp_path / "y.parts").mkdir()
    mine = tmp_path / "y.parts" / "mine.txt"
    mine.write_text("mine")
    with pytest.raises(EmbedError, match=r"y\.parts: is there, and not from a job of this kind"):
        embed_dataset(job(videos, folder, tmp_path / "y.npy"))
    assert mine.read_text() == "mine"
    with pytest.raises(EmbedError, match="device: mps"):
        embed_dataset(job(videos, folder, tmp_path / "z.npy", device="mps"))


def test_a_file_name_that_is_not_utf8(videos, folder, tmp_path):
    pytest.importorskip("pyarrow")
    clips = tmp_path / "old disk"
    clips.mkdir()
    name = os.fsdecode(b"caf\xe9.mp4")
    shutil.copy(next(videos.glob("*.mp4")), clips / name)
    for out in (tmp_path / "n.npy", tmp_path / "n2.parquet"):
        assert embed_dataset(job(clips, folder, out)).rows == 1
    (row,) = json.loads((tmp_path / "n.json").read_text())["rows"]
    assert row["file"].endswith(name)


def test_a_row_that_starts_behind_the_end_is_a_fault_with_its_line(videos, folder, tmp_path):
    manifest, out = tmp_path / "m.csv", tmp_path / "v.npy"
    manifest.write_text("video,start,end\n" + "".join(f"{videos / '0.mp4'},{at},{at + 1}\n" for at in (0, 90, 95)))
    embed_dataset(job(manifest, folder, out))
    assert len(np.load(out)) == 1
    faults = [(fault["field"], fault["reason"][:41]) for fault in lines(out.with_suffix(".faults.jsonl"))]
    assert faults == [("start", f"line {n}: starts at {at} s, behind the end of") for n, at in ((3, 90), (4, 95))]
