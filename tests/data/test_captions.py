"""Caption files of every kind, broken ones among them, and which captions go with a window."""

from __future__ import annotations

import json

import numpy as np
import pytest

from vatt.data.captions import Caption, CaptionError, choose_candidates, read_captions, sidecar_of

SRT = """\ufeff1\r
00:00:01,000 --> 00:00:02,500\r
<i>Hello</i> there\r
two lines 🎬\r
\r
2\r
00:00:05,000 --> 00:00:04,000\r
reversed\r
\r
3\r
00:01:xx,000 --> 00:00:04,000\r
unreadable\r
\r
4\r
01:00:00.250 --> 01:00:01.5\r
late\r
"""
VTT = "WEBVTT\n\nNOTE nothing\n\nintro\n00:01.000 --> 00:02.000 align:start\n<c.yellow>a word</c>\n"


def test_srt(tmp_path):
    path = tmp_path / "a.srt"
    path.write_text(SRT, encoding="utf-8", newline="")
    captions, skipped = read_captions(path)
    assert captions == [
        Caption("Hello there two lines 🎬", 1.0, 2.5),
        Caption("late", 3600.25, 3601.5),
    ]
    assert skipped == [
        "line 7: ends at 4 s, before its start at 5 s",
        "line 11: cannot read the times '00:01:xx,000 --> 00:00:04,000'",
    ]


def test_vtt_and_txt(tmp_path):
    (tmp_path / "a.vtt").write_text(VTT)
    assert read_captions(tmp_path / "a.vtt") == ([Caption("a word", 1.0, 2.0)], [])
    (tmp_path / "a.txt").write_text("one\n\n two \n")
    assert read_captions(tmp_path / "a.txt") == ([Caption("one"), Caption("two")], [])


@pytest.mark.parametrize(
    ("content", "captions"),
    [
        (["a", "b"], [Caption("a"), Caption("b")]),
        ([{"text": "a", "start": 0, "end": 1.5}], [Caption("a", 0.0, 1.5)]),
        ([{"caption": "a"}], [Caption("a")]),
        ({"start": [0, 2], "end": [1, 3], "text": ["a", "b"]}, [Caption("a", 0.0, 1.0), Caption("b", 2.0, 3.0)]),
    ],
)
def test_json(tmp_path, content, captions):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content))
    assert read_captions(path) == (captions, [])


def test_single_bad_items_are_skipped(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(
        json.dumps(["fine", 7, {"text": "x", "start": "soon", "end": 2}, {"text": "y", "start": 2, "end": 1}])
    )
    captions, skipped = read_captions(path)
    assert captions == [Caption("fine")]
    assert [reason.split(":")[0] for reason in skipped] == ["item 1", "item 2", "item 3"]


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.json", b"{"), ("a.json", b'{"start": [1]}'), ("a.srt", b"no cues here"), ("a.txt", b"\xff\xfe\x00\xd8")],
)
def test_unusable_files_are_named(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(CaptionError, match=name):
        read_captions(path)


def test_sidecar(tmp_path):
    video = tmp_path / "clip.one.mp4"
    assert sidecar_of(video) is None
    (tmp_path / "clip.one.txt").write_text("a")
    assert sidecar_of(video) == tmp_path / "clip.one.txt"
    (tmp_path / "clip.one.srt").write_text("a")
    assert sidecar_of(video) == tmp_path / "clip.one.srt"


def test_candidates_are_the_overlapping_caption_and_its_neighbours_in_time():
    narration = tuple(Caption(f"c{i}", 4.0 * i, 4.0 * i + 3.9) for i in range(10))
    rng = np.random.default_rng(0)
    chosen = choose_candidates(narration, 21.0, 23.5, 5, rng)
    assert chosen[0] == "c5"
    assert sorted(chosen) == ["c3", "c4", "c5", "c6", "c7"]
    assert choose_candidates(narration, 100.0, 103.0, 2, None) == ["c9", "c8"]
    assert choose_candidates(narration[:2], 0.0, 3.2, 5, rng) == ["c0", "c1"]
    assert choose_candidates((), 0.0, 3.2, 5, rng) == []


def test_candidates_without_times_are_drawn():
    captions = tuple(Caption(str(i)) for i in range(8))
    assert choose_candidates(captions, 0, 3, 3, None) == ["0", "1", "2"]
    drawn = {tuple(choose_candidates(captions, 0, 3, 3, np.random.default_rng(seed))) for seed in range(20)}
    assert len(drawn) > 10
    assert all(len(set(three)) == 3 for three in drawn)
