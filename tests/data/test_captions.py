"""Caption files of every kind, broken ones among them, and which captions go with a window."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import time
import zlib
from pathlib import Path

import numpy as np
import pytest

from tests.data.caption_cases import CASES
from vatt.data.captions import (
    Caption,
    CaptionError,
    Narration,
    captions_in,
    choose_candidates,
    read_captions,
    sidecar_of,
)
from vatt.data.sidecars import Sidecars
from vatt.data.subtitles import plain_words
from vatt.data.tokenizer import Tokenizer

SHARED = Path(__file__).parents[1] / "cases"

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


def test_subtitles_as_tools_write_and_editors_break_them(tmp_path):
    for name, case in CASES.items():
        path = tmp_path / case.name
        path.write_bytes(case.content)
        if not case.captions and case.faults:
            with pytest.raises(CaptionError, match=case.name):
                read_captions(path)
            continue
        captions, notes = read_captions(path)
        assert [(one.start, one.end, one.text) for one in captions] == case.captions, name
        assert len(notes) == case.faults, name


SHARED_CASES = [
    ("no_blank_lines.srt", ["first sentence", "second sentence", "third sentence"]),
    ("entities.vtt", [">> Tom & Jerry's home"]),
    ("rolling.vtt", ["welcome to the show", "today we bake"]),
    ("whisper.json", ["hello there"]),
    ("surrogate.json", ["nice one \ufffd"]),
    ("v2d.json", ["a dog runs"]),
]


def test_shared_cases():
    for name, said in SHARED_CASES:
        captions, notes = read_captions(SHARED / name)
        assert [caption.text for caption in captions] == said
        assert notes == []


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


SEGMENT = {"id": 0, "seek": 0, "start": 0.0, "end": 2.0, "text": " hello there", "avg_logprob": float("nan")}
HELLO = [Caption("hello there", 0.0, 2.0)]


JSON_OF_TOOLS = [
    ({"text": " hello there", "segments": [SEGMENT], "language": "en"}, HELLO),  # whisper
    ([SEGMENT | {"words": [{"word": " hello", "start": 0.0, "end": 1.0, "probability": 0.9}]}], HELLO),  # faster-
    ({"segments": [SEGMENT | {"words": []}], "word_segments": [{"word": "hello", "start": 0}]}, HELLO),  # whisperX
    ({"task": "transcribe", "duration": 2.0, "text": "hello there", "segments": [SEGMENT], "words": []}, HELLO),
    ({"text": "hello there"}, [Caption("hello there")]),  # OpenAI's json
    ({"text": "", "segments": [], "language": "en"}, []),
    ({"transcription": [{"offsets": {"from": 0, "to": 2000}, "text": " hello there"}]}, HELLO),  # whisper.cpp
    ({"text": "x", "chunks": [{"timestamp": [0.0, 2.0], "text": " hello there"}]}, HELLO),  # transformers
    ([{"text": "hello there", "start": 0.0, "duration": 2.0}], HELLO),  # youtube-transcript-api
    (
        {"url": "http://x", "caption": "hello there", "key": "0", "width": 2},
        [Caption("hello there")],
    ),  # img2dataset
    ({"caption": None, "key": "0", "status": "failed_to_download"}, []),
    ({"caption": float("nan"), "key": "0"}, []),
    ({"start": 0, "end": 2, "text": "hello there"}, HELLO),
    ([{"text": "hello there", "start": "0", "end": "2.0"}], HELLO),
    ([{"text": "hello there", "start": "00:00:00,000", "end": "00:02.0"}], HELLO),
    (
        [{"text": "half \ud83d", "start": 0, "end": 2}, "\ude00 half"],
        [Caption("half \ufffd", 0.0, 2.0), Caption("\ufffd half")],
    ),
]


def test_json_of_tools(tmp_path):
    for content, captions in JSON_OF_TOOLS:
        path = tmp_path / "a.JSON"
        path.write_text("\ufeff" + json.dumps(content), encoding="utf-8")
        assert read_captions(path) == (captions, [])
        path.write_text(json.dumps(content), encoding="utf-16")
        assert read_captions(path)[0] == captions


BAD_ITEMS = [
    ({"text": ["x"], "start": 0, "end": 1}, "expected a sentence"),
    ({"text": True}, "expected a sentence"),
    ({"text": "x", "start": True, "end": 2}, "must be seconds"),
    ({"text": "x", "start": [0], "end": 2}, "must be seconds"),
    ({"text": "x", "start": "1_0", "end": "2_0"}, "must be seconds"),
    ({"text": "x", "start": 1}, "a start and no end"),
    ({"text": "x", "timestamp": [5.0, None]}, "a start and no end"),
    ({"text": "x", "start": -1, "end": 2}, "not negative"),
    ({"text": "x", "start": 0, "end": "9" * 400}, "finite"),
    ({"text": "x", "start": 0, "end": float("inf")}, "finite"),
    ({"text": "x", "start": 0, "end": 10**400}, "finite"),
    ({"text": "x", "start": 2, "end": 2}, "ends at 2 s"),
]


def test_bad_items_have_reasons():
    for item, reason in BAD_ITEMS:
        captions, skipped = captions_in(["fine", item], "here")
        assert captions == [Caption("fine")]
        assert len(skipped) == 1
        assert skipped[0].startswith("item 1: ")
        assert reason in skipped[0]
        assert len(skipped[0]) < 250


def test_single_bad_items_are_skipped(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(
        json.dumps(["fine", 7, {"text": "x", "start": "soon", "end": 2}, {"text": "y", "start": 2, "end": 1}])
    )
    captions, skipped = read_captions(path)
    assert captions == [Caption("fine")]
    assert [reason.split(":")[0] for reason in skipped] == ["item 1", "item 2", "item 3"]


UNUSABLE = [
    ("a.json", b"{"),
    ("a.json", b'{"start": [1]}'),
    ("a.json", b"[" * 100_000),
    ("a.json", b"[1" + b"0" * 5000 + b"]"),
    ("a.json", b'{"text": "a", "text": "b"}'),
    ("a.json", b'{"title": "facts alone"}'),
    ("a.json", b"7"),
    ("a.srt", b"no cues here"),
    ("a.srt", b"<html><body>404 not found</body></html>"),
    ("a.txt", b"\xff\xfe\x00\xd8"),
    ("a.txt", b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01" * 20),
    ("a.ass", b"[Script Info]\nTitle: x\xff\xff\xff\xff"),
]


def test_unusable_files_are_named(tmp_path):
    for name, content in UNUSABLE:
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


def test_half_a_character_is_read_learned_and_packed():
    (caption,) = read_captions(SHARED / "surrogate.json")[0]
    tokenizer = Tokenizer.train([caption.text, caption.text], 8)
    ids = tokenizer.encode([caption.text], 4)
    assert ids.shape == (1, 4)
    assert tokenizer.unknown_words(caption.text)[0] == []
    packed = zlib.compress(json.dumps([[0.0], [3.0], ["nice one \ud83d"]]).encode())  # by an earlier version
    assert pickle.loads(pickle.dumps(Narration.from_packed(1, packed))).unpack() == (caption,)


def test_a_pipe_is_no_caption_file(tmp_path):
    os.mkfifo(tmp_path / "a.srt")
    with pytest.raises(CaptionError, match="no regular file"):
        read_captions(tmp_path / "a.srt")


NAMES = [
    (["clip.SRT"], "clip.SRT"),
    (["clip.mp4.srt"], "clip.mp4.srt"),
    (["clip.MP4.Vtt"], "clip.MP4.Vtt"),
    (["clip.en.vtt"], "clip.en.vtt"),
    (["clip.en-US.vtt"], "clip.en-US.vtt"),
    (["clip.zh-Hans.srt"], "clip.zh-Hans.srt"),
    (["clip.eng.sdh.srt"], "clip.eng.sdh.srt"),
    (["clip.mp4.de.srt"], "clip.mp4.de.srt"),
    (["clip.ass"], "clip.ass"),
    (["clip.de.srt", "clip.en-GB.vtt", "clip.fr.srt"], "clip.en-GB.vtt"),
    (["clip.de.srt", "clip.cs.vtt"], "clip.cs.vtt"),
    (["clip.en.forced.srt", "clip.en.vtt"], "clip.en.vtt"),
    (["clip.en.srt", "clip.txt"], "clip.txt"),
    (["clip.2.srt", "clip.one.srt", "clips.srt", "clip.en.doc", ".clip.srt", "other.mp4.srt"], None),
    (["clip.en.srt", "clip.en.mp4"], None),  # that of the other video
    (["clip.mkv.srt"], None),
]


def test_names_beside_a_video(tmp_path):
    for names, chosen in NAMES:
        folder = tmp_path / "-".join(names)
        folder.mkdir()
        for name in names:
            (folder / name).write_text("hello")
        found = sidecar_of(folder / "clip.mp4")
        assert (found and found.name) == chosen


def test_the_language_that_is_read_is_told(tmp_path):
    for name in ("a.de.srt", "a.en.vtt", "b.fr.srt", "b.en.srt", "c.srt"):
        (tmp_path / name).write_text("")
    sidecars = Sidecars()
    for name in "abc":
        sidecar_of(tmp_path / f"{name}.mp4", sidecars)
    assert sidecars.note() == (
        "captions beside 2 videos are in several languages; read: en 2; not read: de 1, fr 1 (a file without a "
        "language comes first, then en)"
    )
    assert Sidecars().note() is None


def test_facts_about_a_video_are_not_its_captions(tmp_path):
    for name in ("v2d.json", "v2d.txt"):
        shutil.copy(SHARED / name, tmp_path)
    assert sidecar_of(tmp_path / "v2d.mp4") == tmp_path / "v2d.txt"
    shutil.copy(SHARED / "whisper.json", tmp_path / "w.json")
    (tmp_path / "w.txt").write_text("hello there")
    assert sidecar_of(tmp_path / "w.mp4") == tmp_path / "w.json"  # with times


def test_hostile_text_is_read_in_linear_time(tmp_path):
    path = tmp_path / "a.srt"
    began = time.process_time()
    for text in (
        "<" * 100_000,
        "{\\" * 50_000,
        "<v " * 30_000,
        "<b x=" + " " * 100_000,
        "&#" * 50_000,
        "&" * 100_000,
        "<c." + "a" * 100_000,
        "\r" * 100_000 + "x",
        "0:" * 50_000,
        " " * 100_000 + "-->",
        "1:1 --> " * 12_000,
    ):
        assert isinstance(plain_words(text), str)
        path.write_text(f"1\n00:00:00,000 --> 00:00:01,000\n{text}\n", newline="")
        read_captions(path)
    path.write_text(
        "1\n00:00:00,000 --> 00:00:01,000\n" + "a\n" * 30_000 + "2\n00:00:01,000 --> 00:00:02,000\n" + "a\n" * 30_000
    )
    assert len(read_captions(path)[0]) == 2
    assert time.process_time() - began < 5


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
