"""The sample set on disk: real files, the same bytes from the same seed, whole or not at all."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest

from tests.limits import HANG
from vatt.data import read_clips
from vatt.sample import EncoderError, SampleError, build, build_pictures, writing

SAMPLE = [sys.executable, "-m", "vatt", "sample"]


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_files_are_real_video_with_sound(sample):
    rows = list(csv.DictReader((sample / "manifest.csv").open()))
    assert [row["split"] for row in rows] == ["train"] * 12 + ["val"] * 6
    for row in rows:
        with av.open(str(sample / row["video"])) as file:
            video, audio = file.streams.video[0], file.streams.audio[0]
            assert (video.codec_context.name, video.pix_fmt) == ("h264", "yuv420p")
            assert (audio.codec_context.name, audio.sample_rate, audio.channels) == ("aac", 48000, 1)
            frames = list(file.decode(video))
            assert sum(frame.key_frame for frame in frames) == 4  # one a second, so that seeking is cheap
            assert frames[-1].time == pytest.approx(4 - 1 / 15)
        with av.open(str(sample / row["video"])) as file:
            sound = np.concatenate([frame.to_ndarray()[0] for frame in file.decode(audio=0)])
        assert abs(len(sound) / 48000 - 4) < 0.05
        assert 0.2 < np.abs(sound).max() <= 1


@pytest.mark.slow
def test_sound_is_in_step_with_the_picture(tmp_path):
    """A bounce is heard when the thing is lowest."""
    folder = build(tmp_path / "set", seed=5, train=40, val=0, workers=1).parent
    rows = [row for row in csv.DictReader((folder / "manifest.csv").open()) if row["motion"] == "bounce"]
    assert len(rows) >= 4
    for row in rows:
        with av.open(str(folder / row["video"])) as file:
            pictures = np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]).astype(int)
        with av.open(str(folder / row["video"])) as file:
            sound = np.concatenate([frame.to_ndarray()[0] for frame in file.decode(audio=0)])
        moving = np.abs(pictures - np.median(pictures, axis=0)).sum(-1) > 90
        height = np.array([np.nonzero(picture)[0].mean() for picture in moving])  # rows count downwards
        loudness = np.abs(sound[: 60 * 3200].reshape(60, 3200)).mean(1)
        assert np.corrcoef(height, loudness)[0, 1] > 0.4, row["video"]


def test_captions_are_timed_and_start_with_the_whole(sample):
    for path in sample.rglob("*.srt"):
        cues = re.split(r"\n\s*\n", path.read_text().strip())
        assert len(cues) == 5
        assert "00:00:00,000 --> 00:00:00,800" in cues[0]
        assert "00:00:03,200 --> 00:00:04,000" in cues[-1]


@pytest.mark.slow
def test_bytes_depend_on_the_seed_alone(sample, tmp_path):
    again = build(tmp_path / "again", seed=3, train=12, val=6, workers=3).parent
    assert contents(again) == contents(sample)
    other = build(tmp_path / "other", seed=4, train=2, val=0, workers=1).parent
    assert (other / "train/0000.mp4").read_bytes() != (sample / "train/0000.mp4").read_bytes()


def test_a_finished_set_is_used_again_and_another_one_is_kept(sample):
    before, said = {p: p.stat().st_mtime_ns for p in sample.rglob("*")}, []
    build(sample, seed=3, train=12, val=6, say=said.append)
    assert before == {p: p.stat().st_mtime_ns for p in sample.rglob("*")}
    assert len(said) == 1
    assert "is there already" in said[0]
    with pytest.raises(SampleError, match=f"{sample.name}: is not empty"):
        build(sample, seed=9, train=12, val=6)
    assert before == {p: p.stat().st_mtime_ns for p in sample.rglob("*")}


def test_a_changed_set_is_noticed(tmp_path, monkeypatch):
    out, said = tmp_path / "s", []
    monkeypatch.setattr(writing, "_TOLD_EVERY", 0.0)
    build(out, train=3, val=1, workers=1, say=said.append)
    assert all(re.match(r"sample set: \d of 4 clips", line) for line in said[1:])  # how far it is, each second
    videos = sorted(out.glob("*/*.mp4"))
    whole = videos[0].read_bytes()
    videos[0].write_bytes(videos[1].read_bytes())
    with pytest.raises(SampleError, match=rf"{videos[0].relative_to(out)}: changed since it was written; remove"):
        build(out, train=3, val=1, workers=1)
    videos[0].write_bytes(whole)
    build(out, train=3, val=1, workers=1)
    videos[1].unlink()
    with pytest.raises(SampleError, match="changed since"):
        build(out, train=3, val=1, workers=1)
    (out / "sums.json").unlink()  # as one that was written before there were sums
    assert build(out, train=3, val=1, workers=1) == out / "manifest.csv"


def test_an_interrupted_build_leaves_nothing_that_looks_finished(tmp_path, monkeypatch):
    monkeypatch.setattr("vatt.sample.writing.write_mp4", interrupt)
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "set", train=2, val=0, workers=1)
    assert list(tmp_path.iterdir()) == []


def interrupt(*_):
    raise KeyboardInterrupt


def test_an_unwritable_place_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SampleError, match="file/set: cannot write here"):
        build(tmp_path / "file" / "set", train=1, val=0)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_is_an_error_that_names_the_file(tmp_path, workers):
    """A limit on the size of files takes the place of a full disk: writing fails half-way, just the same."""
    code = (
        "import resource, sys; from vatt.__main__ import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n"
        "raise SystemExit(main())"
    )
    arguments = ["sample", "--out", str(tmp_path / "set"), "--train", "2", "--val", "0", "--workers", str(workers)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    run = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=environment)
    assert run.returncode == 1
    assert re.search(r"set: cannot write the sample set: .*File too large.*train/000\d\.mp4", run.stderr)
    assert list(tmp_path.iterdir()) == []


def test_without_an_encoder_the_error_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("vatt.sample.encode.ENCODERS", ("libnothing264",))
    with pytest.raises(EncoderError, match=r"no H\.264 encoder; tried libnothing264"):
        build(tmp_path / "set", train=1, val=0)


def test_command_prints_chance_and_oracle(sample):
    command = [
        sys.executable,
        "-m",
        "vatt",
        "sample",
        "--out",
        str(sample),
        "--seed",
        "3",
        "--train",
        "12",
        "--val",
        "6",
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    run = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    chance = next(line for line in run.stdout.splitlines() if line.startswith("chance"))
    assert chance.split() == ["chance", "16.7%", "83.3%", "100.0%", "3.5"]
    assert "oracle audio->video" in run.stdout
    assert json.loads((sample / "sample.json").read_text())["train"] == 12


def frames(path):
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_pictures_are_the_middle_frames(tmp_path):
    videos = read_clips(build(tmp_path / "sample", train=2, val=1, workers=1)).clips
    manifest = build_pictures(tmp_path / "sample")
    pictures = read_clips(manifest).clips
    assert [p.kind for p in pictures] == ["image"] * 3
    for video, picture in zip(videos, pictures, strict=True):
        assert (picture.label, picture.split, picture.extra) == (video.label, video.split, video.extra)
        (still,) = frames(picture.video)
        moving = frames(video.video)
        assert np.array_equal(still, moving[len(moving) // 2])
    before = picture.video.stat().st_mtime_ns
    assert build_pictures(tmp_path / "sample") == manifest
    assert picture.video.stat().st_mtime_ns == before
    assert sorted(p.name for p in (tmp_path / "sample").iterdir() if p.name.startswith(".pict")) == []


def test_a_folder_without_a_sample_is_refused(tmp_path):
    with pytest.raises(SampleError, match="cannot write the pictures"):
        build_pictures(tmp_path)


def test_processes_of_a_build_that_is_killed_end(tmp_path):
    command = [
        sys.executable,
        "-m",
        "vatt",
        "sample",
        "--out",
        str(tmp_path / "set"),
        "--train",
        "400",
        "--workers",
        "2",
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as build:
        children = Path(f"/proc/{build.pid}/task/{build.pid}/children")
        while len(found := children.read_text().split()) < 2:
            assert build.poll() is None
            time.sleep(0.02)
        build.kill()
    until = time.monotonic() + HANG
    while any(process_is_there(child) for child in found):
        assert time.monotonic() < until
        time.sleep(0.05)
    assert not (tmp_path / "set").exists()


def process_is_there(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
