"""Folders and manifests: what is read, what is refused and how it is named."""

from __future__ import annotations

import csv
import json
import os
import pickle

import pytest

from vatt.data.captions import Caption, choose_candidates
from vatt.data.clips import ManifestError
from vatt.data.manifest import read_clips, write_lines, write_manifest


@pytest.fixture
def folder(tmp_path):
    for name in ("b.mp4", "a.MKV", "sub/c.webm", "notes.doc"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "b.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\nhello\n")
    (tmp_path / "sub" / "c.json").write_text("{")
    return tmp_path


def test_folder(folder):
    found = read_clips(folder)
    assert [clip.video.name for clip in found.clips] == ["a.MKV", "b.mp4", "c.webm"]
    assert found.clips[1].captions == (Caption("hello", 0.0, 1.0),)
    assert [record["field"] for record in found.skipped] == ["captions"]
    assert "c.json" in found.skipped[0]["file"]


def test_csv_and_jsonl(folder):
    rows = [
        {"video": "b.mp4", "start": 0, "end": 2, "caption": "one 🎈", "split": "train", "mood": "sad"},
        {"video": "b.mp4", "start": 2, "end": 4, "caption": "two", "split": "train", "mood": ""},
        {"video": "gone.mp4", "start": None, "end": None, "caption": "x", "split": "val", "mood": ""},
        {"video": "a.MKV", "start": None, "end": None, "caption": None, "split": "val", "mood": ""},
    ]
    table = folder / "m.csv"
    table.write_text(
        "video,start,end,caption,split,mood\n"
        + "\n".join(",".join("" if value is None else str(value) for value in row.values()) for row in rows)
    )
    lines = folder / "m.jsonl"
    lines.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    for path in (table, lines):
        found = read_clips(path)
        assert [(c.video.name, c.start, c.end, c.split) for c in found.clips] == [
            ("b.mp4", 0.0, 2.0, "train"),
            ("b.mp4", 2.0, 4.0, "train"),
            ("a.MKV", None, None, "val"),
        ]
        both = (Caption("one 🎈", 0.0, 2.0), Caption("two", 2.0, 4.0))
        assert [c.captions for c in found.clips] == [both, both, ()]
        assert found.clips[0].extra["mood"] == "sad"
        assert len(found.skipped) == 1
        assert "gone.mp4" in found.skipped[0]["file"]


def test_captions_come_from_sidecars_where_the_manifest_has_none(folder):
    (folder / "m.csv").write_text("video,label\nb.mp4,3\n")
    clip = read_clips(folder / "m.csv").clips[0]
    assert clip.captions == (Caption("hello", 0.0, 1.0),)
    assert clip.label == "3"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("m.csv", "vidoe,start\nb.mp4,1\n", "m.csv, column vidoe: did you mean 'video'"),
        ("m.csv", "video,Captions\nb.mp4,1\n", "column Captions: did you mean 'captions'"),
        ("m.csv", "path,start\nb.mp4,1\n", "has no column video"),
        ("m.csv", "", "has no column video"),
        ("m.csv", "video,start,end\nb.mp4,1,soon\n", "line 2, column end: 'soon' is not a number"),
        ("m.csv", "video,start,end\nb.mp4,3,1\n", "line 2, column end: 1 is not after start, 3"),
        ("m.csv", "video,start,end\nb.mp4,-3,1\n", "line 2, column start: '-3' is not a time"),
        ("m.csv", "video,start,end\nb.mp4,nan,1\n", "line 2, column start"),
        ("m.csv", "video,start\nb.mp4,1,2,3\n", "line 2: more values than columns"),
        ("m.csv", "video,start\n,1\n", "line 2, column video: is empty"),
        ("m.csv", "video\ngone.mp4\n", "no row whose video is there"),
        ("m.jsonl", '{"video": "b.mp4"}\n{"video"\n', "line 2: is not JSON"),
        ("m.jsonl", "[1]\n", "line 1: expected an object"),
        ("m.xlsx", "x", "ends in .csv or .jsonl"),
    ],
)
def test_bad_manifests_are_named(folder, name, text, message):
    (folder / name).write_text(text)
    with pytest.raises(ManifestError, match=message) as caught:
        read_clips(folder / name)
    assert name in str(caught.value)


def test_nothing_there(tmp_path):
    with pytest.raises(ManifestError, match="no video file"):
        read_clips(tmp_path)
    with pytest.raises(ManifestError, match="no such folder or manifest"):
        read_clips(tmp_path / "absent")


CAPTIONS = {"start": [0, 1], "end": [1, 2], "text": ["one", "two \u2028 lines"]}


def test_a_row_with_all_captions_of_a_video(folder):
    (folder / "m.jsonl").write_text(json.dumps({"video": "a.MKV", "captions": CAPTIONS}, ensure_ascii=False) + "\n")
    with (folder / "m.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["video", "captions"], ["a.MKV", json.dumps(CAPTIONS)], ["b.mp4", ""]])
    expected = (Caption("one", 0.0, 1.0), Caption("two \u2028 lines", 1.0, 2.0))
    for name in ("m.jsonl", "m.csv"):
        clip = read_clips(folder / name).clips[0]
        assert (tuple(clip.captions), len(clip.captions), clip.captions[1]) == (expected, 2, expected[1])
        assert clip.captions == expected
        assert choose_candidates(clip.captions, 1.0, 2.0, 2, None) == ["two \u2028 lines", "one"]
        assert pickle.loads(pickle.dumps(clip)) == clip
    (folder / "m.jsonl").write_text('{"video": "a.MKV", "captions": {"start": [1], "end": [], "text": []}}\n')
    with pytest.raises(ManifestError, match=r"line 1, column captions: .*lists of one length"):
        read_clips(folder / "m.jsonl")


def test_a_name_that_is_not_utf8_comes_back(folder):
    name = os.fsdecode(b"caf\xe9.mp4")
    (folder / name).write_bytes(b"x")
    write_manifest([{"video": name, "caption": "gr\u00fcn"}], folder / "m.jsonl")
    (clip,) = read_clips(folder / "m.jsonl").clips
    assert clip.video == folder / name
    with pytest.raises(ManifestError, match="cannot be written"):
        write_lines(folder / "n.txt", [name])
    assert not list(folder.glob(".*.partly"))
