"""``vatt data check``: real small files, good and broken; processes that crash or hang."""

from __future__ import annotations

import csv
import json
import struct
from pathlib import Path

import av
import numpy as np
import pytest

from tests.data.media import RATE, click_at, flash_at, write
from tests.limits import HANG
from vatt.__main__ import main as vatt
from vatt.data.check import check
from vatt.data.clips import ManifestError
from vatt.data.manifest import read_clips


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    """good.mp4 (2 s, with sound), mute.mp4 (2 s), sound.wav (2 s), picture.png, junk.mp4, torn.mp4."""
    folder = tmp_path_factory.mktemp("media")
    frames = flash_at(1, 2, 10, 32, 32)
    write(folder / "good.mp4", frames, sound=click_at(1, 2))
    write(folder / "mute.mp4", frames)
    write(folder / "sound.wav", None, sound=click_at(1, 2, 8000), rate=8000, audio_codec="pcm_s16le")
    with av.open(str(folder / "picture.png"), "w", format="image2") as container:
        stream = container.add_stream("png", rate=1)
        stream.height, stream.width, stream.pix_fmt = 16, 16, "rgb24"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((16, 16, 3), 9, np.uint8), format="rgb24")))
        container.mux(stream.encode(None))
    (folder / "junk.mp4").write_bytes(b"not a video" * 50)
    whole = write(folder / "whole.mkv", flash_at(1, 8, 10, 32, 32), sound=click_at(1, 8))
    (folder / "torn.mkv").write_bytes(whole.read_bytes()[: whole.stat().st_size // 4])
    whole.unlink()
    assert click_at(1, 2).size == 2 * RATE
    return folder


def manifest(folder: Path, *rows: dict) -> Path:
    path = folder / "manifest.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.slow
def test_faults_are_named_and_the_rest_is_written(media, tmp_path, capsys):
    source = manifest(
        media,
        {"video": "good.mp4", "label": "a", "split": "train", "start": 0, "end": 2.5, "mood": "sad"},
        {"video": "good.mp4", "label": "b", "split": "train", "start": 1.5, "end": 9},
        {"video": "good.mp4", "label": "b", "split": "train", "start": 2.5, "end": 3},
        {"video": "good.mp4", "split": "train"},
        {"video": "good.mp4", "label": "a", "split": "train", "start": "soon"},
        {"video": "mute.mp4", "label": "b", "split": "train"},
        {"video": "mute.mp4", "label": "a", "split": "val"},
        {"video": "junk.mp4", "label": "a", "split": "val"},
        {"video": "torn.mkv", "label": "a", "split": "val"},
        {"video": "absent.mp4", "label": "a", "split": "val"},
        {"video": "sound.wav", "label": "a", "split": "val"},
        {"audio": "sound.wav", "label": "a", "split": "val"},
        {"audio": "mute.mp4", "label": "a", "split": "val"},
        {"image": "picture.png", "label": "a", "split": "val"},
        {"image": "junk.mp4", "label": "a", "split": "val"},
    )
    (tmp_path / "deep").mkdir()
    out, report, counts = tmp_path / "deep" / "clean.jsonl", tmp_path / "faults.jsonl", tmp_path / "counts.csv"
    arguments = ["data", "check", str(source), "--out", str(out), "--report", str(report), "--counts", str(counts)]
    assert vatt([*arguments, "--workers", "1", "--seconds", str(HANG)]) == 0
    faults = [json.loads(line) for line in report.read_text().splitlines()]
    assert [(Path(fault["file"]).name, fault["field"]) for fault in faults] == [
        ("manifest.jsonl", "row"),
        ("good.mp4", "end"),
        ("good.mp4", "start"),
        ("good.mp4", "label"),
        ("junk.mp4", "container"),
        ("torn.mkv", "video"),
        ("absent.mp4", "video"),
        ("sound.wav", "video"),
        ("mute.mp4", "audio"),
        ("junk.mp4", "image"),
    ]
    assert "line 5, column start: 'soon' is not a number" in faults[0]["reason"]
    assert "line 2: 9 s lies past the end of the file at 2" in faults[1]["reason"]
    assert faults[3]["reason"] == "line 4: has no label, though others have"
    clips = read_clips(out).clips
    assert [(clip.video.name, clip.kind, clip.label) for clip in clips] == [
        ("good.mp4", "video", "a"),
        ("mute.mp4", "video", "b"),
        ("mute.mp4", "video", "a"),
        ("sound.wav", "audio", "a"),
        ("picture.png", "image", "a"),
    ]
    assert clips[0].extra == {"mood": "sad"}
    assert clips[0].end == 2.5
    assert not Path(json.loads(out.read_text().splitlines()[0])["video"]).is_absolute()
    shown = capsys.readouterr()
    assert "10 files tried" in shown.out
    assert "5 rows are good; 10 faults" in shown.out
    assert "split train: 2 clips, 2 classes" in shown.out
    assert "warning: split val: classes without a clip (1): b" in shown.err
    with counts.open() as file:
        assert [list(row.values()) for row in csv.DictReader(file)] == [
            ["split", "train", "a", "1"],
            ["split", "train", "b", "1"],
            ["split", "val", "a", "3"],
            ["split", "val", "b", "0"],
        ]


def test_a_folder_and_videos_that_must_have_sound(media, tmp_path, capsys):
    out = tmp_path / "clean.jsonl"
    check_of = ["data", "check", str(media), "--out", str(out), "--seconds", str(HANG)]
    assert vatt([*check_of, "--need-sound"]) == 0
    assert [clip.video.name for clip in read_clips(out).clips] == ["good.mp4"]
    assert not Path(json.loads(out.read_text())["video"]).is_absolute()
    assert "mute.mp4: audio: the file has no sound" in capsys.readouterr().out
    assert vatt([*check_of, "--sound"]) == 0
    assert [clip.video.name for clip in read_clips(out).clips] == ["good.mp4", "mute.mp4"]  # of use without sound
    said = capsys.readouterr().out
    assert "mute.mp4: audio: the file has no sound\nthey stay, for their pictures and captions; --need-sound" in said


def test_silence_and_equal_sounds(tmp_path, capsys):
    """Clips that are silent wherever one listens are named, and sounds that several clips have are counted."""
    frames = flash_at(1, 8, 10, 32, 32)
    loud = np.concatenate([np.zeros(RATE), click_at(1, 7)])
    for name, sound in (("silent", 0 * loud), ("late", loud), ("copy", loud), ("other", loud[::-1])):
        write(tmp_path / f"{name}.mov", frames, sound=sound, audio_codec="pcm_s16le")
    write(tmp_path / "none.mov", frames)
    report = tmp_path / "faults.jsonl"
    arguments = ["data", "check", str(tmp_path), "--sound", "--report", str(report), "--seconds", str(HANG)]
    assert vatt(arguments) == 0
    faults = [json.loads(line) for line in report.read_text().splitlines()]
    assert [(Path(fault["file"]).name, fault["field"], fault["reason"]) for fault in faults] == [
        ("none.mov", "audio", "the file has no sound"),
        ("silent.mov", "audio", "is silent"),
    ]
    told = "sound of 5 clips: 1 are silent, 1 have none, 2 have the sound of another (1 different sounds)"
    assert told in capsys.readouterr().out
    rows = [{"video": "late.mov", "start": start, "end": start + 3.2} for start in (0.5, 4.0)]
    checked = check(manifest(tmp_path, *rows), sound=True, need_sound=True, workers=1, seconds=HANG)
    assert [row.clip.start for row in checked.rows] == [0.5]
    assert [record["reason"] for record in checked.skipped] == ["line 2: is silent"]
    assert not check(manifest(tmp_path, *rows), workers=1, seconds=HANG).sounds


def test_a_split_without_any_label_is_no_fault(media):
    rows = [{"video": "good.mp4", "label": label, "split": "train"} for label in "ab"]
    checked = check(manifest(media, *rows, {"video": "mute.mp4", "split": "test"}), workers=1, seconds=HANG)
    assert checked.skipped == []
    assert checked.counts.warnings() == ["split test: none of 1 clips has a label"]


def test_official_splits_and_folds_are_counted(media):
    rows = [{"audio": "sound.wav", "label": label, "fold": fold} for label, fold in (("a", 1), ("b", 1), ("a", 2))]
    unused = {"audio": "sound.wav", "label": "b", "fold": ""}  # in no split: there are such videos in HMDB51
    assert check(manifest(media, *rows, unused), workers=1, seconds=HANG).counts.warnings() == [
        "fold 2: classes without a clip (1): b"
    ]
    counts = check(manifest(media, *rows), workers=1, seconds=HANG).counts
    assert counts.warnings() == ["fold 2: classes without a clip (1): b"]
    assert counts.lines(40) == [
        "fold 1: 2 clips, 2 classes, 1 to 1 clips each",
        "fold 2: 1 clips, 1 classes, 1 to 1 clips each",
        "  a  fold 1 1, fold 2 1",
        "  b  fold 1 1, fold 2 0",
    ]


def test_nothing_left_and_other_errors(media, tmp_path, capsys):
    source = manifest(media, {"video": "junk.mp4"})
    report = tmp_path / "faults.jsonl"
    assert vatt(["data", "check", str(source), "--report", str(report), "--out", str(tmp_path / "c.jsonl")]) == 1
    assert "error: no row is left" in capsys.readouterr().err
    assert len(report.read_text().splitlines()) == 1
    assert not (tmp_path / "c.jsonl").exists()
    good = manifest(media, {"video": "good.mp4"})
    assert vatt(["data", "check", str(good), "--out", str(good)]) == 1
    assert "is the manifest that is checked" in capsys.readouterr().err
    for arguments, words in (
        ([str(tmp_path / "absent")], "no such folder or manifest"),
        ([str(good), "--workers", "0"], "workers must be 1 or more"),
        ([str(good), "--seconds", "0"], "--seconds must be above 0"),
        ([str(good), "--out", "clean.csv"], "must end in .jsonl"),
        ([str(good), "--counts", str(good)], "is the manifest that is checked"),
        ([str(good), "--report", "r.jsonl", "--counts", "r.jsonl"], "is --report already"),
        ([str(good), "--out", str(tmp_path / "absent" / "c.jsonl")], "its folder must be there"),
    ):
        assert vatt(["data", "check", *arguments]) == 1
        assert words in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    with pytest.raises(ManifestError, match="holds no video file"):
        check(tmp_path / "empty")


def test_rows_behind_the_end_and_bad_numbers_far_from_the_middle_are_named(media, tmp_path):
    sound = np.zeros(12 * 8000, "<f4")
    sound[100] = np.inf
    body = b"WAVEfmt \x10\0\0\0" + struct.pack("<HHIIHH", 3, 1, 8000, 32000, 4, 32)
    body += b"data" + struct.pack("<I", sound.nbytes) + sound.tobytes()
    (tmp_path / "bad.wav").write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    rows = [{"video": str(media / "good.mp4"), "start": start} for start in (0, 5, 7)] + [{"audio": "bad.wav"}]
    found = check(manifest(tmp_path, *rows), workers=1)
    assert len(found.rows) == 1
    reasons = sorted(f"{record['field']}: {record['reason']}" for record in found.skipped)
    assert reasons[0].startswith("audio: holds values that are not numbers (NaN or infinite), from 0.0")
    assert [reason[:20] for reason in reasons[1:]] == ["start: line 2: 5 s l", "start: line 3: 7 s l"]
