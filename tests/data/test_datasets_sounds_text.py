"""Sounds, and videos with sentences: small pieces of the published files, in their exact layout."""

from __future__ import annotations

from pathlib import Path

import pytest

from vatt.data.clips import ManifestError
from vatt.data.datasets import read_dataset
from vatt.data.manifest import read_clips, write_manifest
from vatt.data.splits import choose_split

FIXTURES = Path(__file__).with_name("fixtures")
HOW, SETS = FIXTURES / "howto100m", FIXTURES / "audioset"


@pytest.fixture
def videos(tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ("nVC-aaaaaaa.mp4", "--PJHxphWEs.mkv", "--PJHxphWEs.wav", "--aaaaaaaaa_0.flac"):
        (folder / name).write_bytes(b"x")
    return folder


def values(rows, *columns):
    return [tuple(row.get(column) for column in columns) for row in rows]


def test_howto100m(videos):
    found = read_dataset("howto100m", [HOW / "HowTo100M_v1.csv", HOW / "caption.json"], videos)
    assert [list(map(tuple, row["captions"].columns().values())) for row in found.rows] == [
        [(0.0, 2.5), (2.5, 4.0), ("hi today we cut an onion", "hold the knife 🔪 like this")]
    ]
    assert found.rows[0]["label"] == "Food and Entertaining"
    assert found.rows[0]["task_id"] == "4711"
    assert found.missing == ["deleted-123"]
    assert found.skipped == ["nVC-aaaaaaa: ends at 8 s, before its start at 9 s"]


def test_audioset_of_videos_and_sound_files(videos):
    found = read_dataset("audioset", [SETS / "balanced_train_segments.csv", SETS / "class_labels_indices.csv"], videos)
    assert [(r.get("start"), r.get("end"), r["label"], r["split"]) for r in found.rows] == [
        (30.0, 40.0, "Speech|Gush", "train"),
        (None, None, "Speech", "train"),  # already cut out
    ]
    assert Path(found.rows[0]["video"]).name == "--PJHxphWEs.mkv"  # not the sound file beside it
    assert Path(found.rows[1]["audio"]).name == "--aaaaaaaaa_0.flac"
    assert found.missing == ["--gone00000"]
    cut = read_dataset("audioset", [SETS / "balanced_train_segments.csv"], videos, cut=True, split="test")
    assert "start" not in cut.rows[0]
    assert [r["split"] for r in cut.rows] == ["test", "test"]
    assert cut.rows[0]["label"] == "/m/09x0r|/t/dd00088"


def test_audioset_names_a_label_that_it_does_not_know(videos, tmp_path):
    (tmp_path / "eval_segments.csv").write_text('# one\n--PJHxphWEs, 0.000, 10.000, "/m/nothing"\n')
    with pytest.raises(ManifestError, match=r"eval_segments\.csv, line 2: the label '/m/nothing' is not in .*indices"):
        read_dataset("audioset", [tmp_path / "eval_segments.csv", SETS / "class_labels_indices.csv"], videos)


def test_esc50(make, tmp_path):
    folder = make("audio/1-100032-A-0.wav", "audio/1-17367-A-10.wav", "audio/5-9032-A-0.wav")
    path = FIXTURES / "esc50" / "esc50.csv"
    found = read_dataset("esc50", [path], folder)
    assert values(found.rows, "label", "fold", "target", "take") == [
        ("dog", "1", "0", "A"),
        ("rain", "1", "10", "A"),
        ("dog", "5", "0", "A"),
    ]
    assert all("audio" in row for row in found.rows)
    assert found.missing == ["2-gone-A-36.wav"]
    changed = tmp_path / "esc50.csv"
    changed.write_text(path.read_text().replace("5-9032-A-0.wav,5,0", "5-9032-A-0.wav,5,7"))
    with pytest.raises(ManifestError, match=r"esc50\.csv, line 4: the target of dog is 7, and 0 further above"):
        read_dataset("esc50", [changed], folder)
    changed.write_text(path.read_text().replace("5-9032-A-0.wav,5,0", "5-9032-A-0.wav,6,0"))
    with pytest.raises(ManifestError, match="line 4: the fold '6'"):
        read_dataset("esc50", [changed], folder)


def test_youcook2(make, tmp_path):
    folder = make("training/113/GLd3aX16zBg.mp4", "validation/405/xHr8X2Wpmno.webm")
    notes = FIXTURES / "youcook2" / "youcookii_annotations_trainval.json"
    names = FIXTURES / "youcook2" / "label_foodtype.csv"
    found = read_dataset("youcook2", [notes, names], folder)
    assert values(found.rows, "start", "end", "caption", "label", "split") == [
        (90.0, 102.0, "spread margarine on two slices of white bread", "grilled cheese", "train"),
        (114.0, 127.0, "place a slice of cheese on the bread", "grilled cheese", "train"),
        (47.0, 60.0, "pick the ends off the verdalago", "caesar salad", "val"),
    ]
    assert found.missing == ["deleted-vid"]  # once, though it has two segments
    assert found.skipped == ["xHr8X2Wpmno, segment 1: ends at 70 s, before its start at 70 s"]
    assert read_dataset("youcook2", [notes], folder).rows[0]["label"] == "113"
    write_manifest(found.rows, tmp_path / "m.jsonl")
    assert len(read_clips(tmp_path / "m.jsonl").clips[0].captions) == 2
    (tmp_path / "label_foodtype.csv").write_text("405,caesar salad\n")
    with pytest.raises(ManifestError, match=r"video GLd3aX16zBg: the label '113' is not in .*label_foodtype"):
        read_dataset("youcook2", [notes, tmp_path / "label_foodtype.csv"], folder)


CLIPS = ("video0.mp4", "video6513.mp4", "video7010.mp4", "video9770.mp4")
QUERY = "a person is connecting something to system"


def test_msrvtt_1k_a(make, tmp_path):
    queries = FIXTURES / "msrvtt" / "MSRVTT_JSFUSION_test.csv"
    folder = make(*CLIPS)
    found = read_dataset("msrvtt", [queries], folder)
    assert values(found.rows, "caption", "split", "video_id") == [(QUERY, "test", "video9770")]
    assert found.missing == ["video9771"]
    both = read_dataset("msrvtt", [queries, FIXTURES / "msrvtt" / "MSRVTT_data.json"], folder)
    assert values(both.rows, "video_id", "split", "caption", "category") == [
        ("video0", "train", "a man is driving", "9"),
        ("video0", "train", "a car is shown", "9"),
        ("video6513", "train", "the first of the val clip", "16"),
        ("video6513", "train", "the second of the val clip", "16"),
        ("video7010", "train", "a test clip outside of 1k-A", "10"),
        ("video9770", "test", QUERY, "10"),
    ]
    listed = read_dataset("msrvtt", [FIXTURES / "msrvtt"], folder)  # the folder has the list of 7k as well
    assert values(listed.rows, "video_id", "split") == [("video0", "train")] * 2 + [("video9770", "test")]
    assert listed.notes == ["2 clips are neither in the test file nor in the list for training"]
    write_manifest(listed.rows, tmp_path / "m.jsonl")
    clips = choose_split(read_clips(tmp_path / "m.jsonl").clips, "test", "m.jsonl")
    assert [[caption.text for caption in clip.captions] for clip in clips] == [[QUERY]]


def test_msrvtt_official_splits(make):
    found = read_dataset("msrvtt", [FIXTURES / "msrvtt" / "MSRVTT_data.json"], make(*CLIPS))
    assert values(found.rows, "video_id", "split", "caption") == [
        ("video0", "train", "a man is driving"),
        ("video0", "train", "a car is shown"),
        ("video6513", "val", "the first of the val clip"),
        ("video7010", "test", "a test clip outside of 1k-A"),
        ("video9770", "test", "something with wires"),
    ]
    assert found.notes == ["3 held-out clips have their first sentence as query; the others are left out"]


def test_msrvtt_errors(make, tmp_path):
    folder, path = make(*CLIPS), tmp_path / "test.csv"
    path.write_text("key,vid_key,video_id,sentence\nret0,m,video0,one\nret1,m,video0,two\n")
    with pytest.raises(ManifestError, match=r"test\.csv, line 3: video0 has a sentence already"):
        read_dataset("msrvtt", [path], folder)
    path.write_text("video_id\nvideo0\nvideo77\n")
    with pytest.raises(ManifestError, match=r"test\.csv, line 3: no \.json file has the clip video77"):
        read_dataset("msrvtt", [path, FIXTURES / "msrvtt" / "MSRVTT_data.json"], folder)
    other = tmp_path / "x.json"
    other.write_text('{"videos": [], "sentences": [{"video_id": "video5", "sen_id": 0, "caption": "a"}]}')
    with pytest.raises(ManifestError, match=r"x\.json, sentences, item 0: video5 is not among the videos"):
        read_dataset("msrvtt", [other], folder)
