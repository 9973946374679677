"""Folders and manifests: what is read, what is refused and how it is named."""

from __future__ import annotations

import csv
import json
import os
import pickle
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest

from vatt.data.captions import Caption, choose_candidates
from vatt.data.check import check
from vatt.data.clips import ManifestError
from vatt.data.labels import LabelError, find_classes, labels_of
from vatt.data.manifest import MEDIA, media_files, read_clips, write_lines, write_manifest
from vatt.files import KINDS


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
        ("m.csv", "video;start\nb.mp4;1,5\n", "m.csv, line 1: its columns are separated by semicolons; a .csv has"),
        ("m.csv", '\n"Video";"a, b"\nb.mp4;x\n', "m.csv, line 2: its columns are separated by semicolons"),
        ("m.csv", "caption\tvideo\nx\tb.mp4\n", "m.csv, line 1: its columns are separated by tabs"),
        ("m.tsv", "video,start\nb.mp4,1\n", "m.tsv, line 1: its columns are separated by commas"),
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


NAN = float("nan")
ROWS = [  # a row, and what is wrong with it; None: it is read as one of a table would be
    ({"label": NAN, "caption": NAN, "start": NAN, "split": NAN}, None),
    ({"label": None, "caption": None}, None),
    ({"label": ["a", "b"]}, "column label: expected text, got a list; several labels are written a|b"),
    ({"label": {"name": "a"}}, "column label: expected text, got an object"),
    ({"label": True}, "column label: expected text, got true or false"),
    ({"label": "['a', 'b']"}, "column label: .* is a list"),
    (
        {"caption": ["a", "b"]},
        "column caption: expected text, got a list; several captions stand in the column captions",
    ),
    ({"caption": {"en": "a"}}, "column caption: expected text, got an object"),
    ({"split": ["train"]}, "column split: expected text"),
    ({"start": [0], "end": 1}, "column start: a list is not a number of seconds"),
    ({"start": True, "end": 1.0}, "column start: true or false is not a number"),
    ({"start": "0:10", "end": "0:20"}, "column start: '0:10' is not a number"),
    ({"start": "1_0", "end": "2_0"}, "column start: '1_0' is not a number"),
    ({"start": -1.0, "end": 1.0}, "column start: .*-1.0.* is not a time"),
    ({"start": 2, "end": 1}, "column end: 1 is not after start, 2"),
    ({"start": 1, "end": 1}, "column end: 1 is not after start, 1"),
    ({"end": "9" * 400}, "column end: .* is not a time"),
    ({"end": 1e300}, "column end: .* is not a time"),
    ({"video": 7}, "column video: .*7.* is no file|column video: expected the name"),
    ({"video": ["b.mp4"]}, "column video: a list is no file"),
    ({"video": "b\0.mp4"}, "column video: expected the name of a file|no row whose video is there"),
    ({"captions": "{"}, "column captions: is not JSON"),
    ({"captions": {"title": "x"}}, "column captions: expected a list of captions"),
]


def test_values_of_other_types_are_refused_or_read_right_in_every_format(folder):
    pytest.importorskip("pyarrow")
    from pyarrow import ArrowInvalid, Table, parquet

    def refused(name: str, fault: str) -> None:
        with pytest.raises(ManifestError, match=fault) as caught:
            read_clips(folder / name)
        assert f"{name}, " in str(caught.value)
        assert len(str(caught.value)) < 400

    for values, fault in ROWS:
        row = {"video": "b.mp4", **values}
        (folder / "m.jsonl").write_text(json.dumps(row) + "\n")
        try:
            parquet.write_table(Table.from_pylist([row]), folder / "m.parquet")
            names = ["m.jsonl", "m.parquet"]
        except ArrowInvalid:
            names = ["m.jsonl"]
        if (
            all(isinstance(value, (str, float, int)) and not isinstance(value, bool) for value in row.values())
            and fault
        ):
            for name, separator in (("m.csv", ","), ("m.tsv", "\t")):
                with (folder / name).open("w", newline="") as file:
                    csv.writer(file, delimiter=separator).writerows([row.keys(), row.values()])
                names.append(name)
        for name in names:
            if fault is not None:
                refused(name, fault)
                continue
            (clip,) = read_clips(folder / name).clips
            assert (clip.label, clip.captions, clip.start, clip.split) == (None, (), None, None)


def test_numbers_are_the_text_of_a_table(folder):
    (folder / "m.jsonl").write_text('{"video": "b.mp4", "label": 3.0, "caption": 7, "tags": ["a"], "x": NaN, "y": 1}\n')
    (clip,) = read_clips(folder / "m.jsonl").clips
    assert (clip.label, clip.captions, clip.extra) == ("3", (Caption("7"),), {"tags": '["a"]', "y": "1"})
    with pytest.raises(LabelError, match=r"column tags: .* is a list; several labels are written a\|b"):
        labels_of(clip, "tags")
    with pytest.raises(LabelError, match="column tags"):
        find_classes([clip], "m.jsonl", "tags")


TABLES = [
    ("m.csv", "video,label,label\nb.mp4,a,b\n", "column label: is there twice"),
    ("m.csv", "video,video\nb.mp4,b.mp4\n", "column video: is there twice"),
    ("m.jsonl", '{"video": "b.mp4", "label": "a", "label": "b"}\n', "line 1: label: stands there twice"),
    ("m.csv", 'video,caption\nb.mp4,"open\na.MKV,x\n', "line 2: .*quotation mark is opened and not closed"),
    ("m.csv", 'video,caption\nb.mp4,x\na.MKV,"open\nb.mp4,y\n', "line 3: .*quotation mark is opened and not closed"),
    ("m.csv", 'video,caption\nb.mp4,"open\na.MKV,x\nb.mp4,"y"\n', "line 2"),
    ("m.csv", 'video,caption\nb.mp4,"open\na.MKV,x\nb.mp4,y"\n', "line 2, column caption: goes on over the next rows"),
    ("m.csv", 'video,caption\nb.mp4,"a" b\n', "line 2: is no row of a table"),
    ("m.csv", "video,caption\nb.mp4,gr\udcfcn\n", "line 2, column caption: is not UTF-8"),
    ("m.jsonl", '{"video": "b.mp4", "caption": "gr\udcfcn"}\n', "line 1, column caption: is not UTF-8"),
    ("m.jsonl", '{"video": "b.mp4", "start": ' + "9" * 5000 + "}\n", "line 1: start: a number of 5000 digits"),
    ("m.jsonl", '{"video": "b.mp4", "x": ' + "[" * 100_000 + "}\n", "line 1: is nested deeper"),
    ("m.jsonl", '{"video": "b.mp4", "start": Infinity}\n', "line 1, column start: inf is not a time"),
    ("m.jsonl", '{"video": "b.mp4", "label": -Infinity}\n', "line 1, column label: expected text"),
    ("m.parquet", "PAR1 no", "m.parquet: cannot be read as Parquet"),
    ("m.csv", "video,audio\nb.mp4,a.wav\nb.mp4,b.wav\n", "line 2, column video, audio: only one may be filled"),
    (
        "m.csv",
        "video,audio\nb.mp4,rock music\na.MKV,jazz\n",
        "line 2, column audio: 'rock music' is no file; .*audio_text",
    ),
    ("m.csv", "audio,label\nrain on a roof,a\nwind,b\n", "line 2, column audio: 'rain on a roof' is no file"),
    ("m.csv", f"video,label\n{'a long sentence ' * 40},b\n", "line 2, column video: .* is no file"),
]


def test_tables_that_would_be_guessed_at_are_refused(folder):
    for name, text, fault in TABLES:
        (folder / name).write_bytes(text.encode("utf-8", "surrogateescape"))
        with pytest.raises(ManifestError, match=fault) as caught:
            read_clips(folder / name)
        assert name in str(caught.value)
        if "infinity" in text.lower():  # of single rows `vatt data check` makes a list
            assert re.search(fault, check(folder / name).skipped[0]["reason"])
        else:
            with pytest.raises(ManifestError, match=fault):
                check(folder / name)


def test_tables_as_spreadsheets_write_them(folder):
    expected = [("b.mp4", 'a, "b"\nc'), ("a.MKV", "grün")]
    text = 'video,label\r\n\r\nb.mp4,"a, ""b""\nc"\r\n,\r\n  \r\na.MKV,grün\r\n,\r\n'
    for content in (
        text.encode(),
        text.encode("utf-8-sig"),
        text.encode("utf-16"),
        text.replace("grün\r\n,\r\n", "grün").encode(),
    ):
        (folder / "m.csv").write_bytes(content)
        assert [(clip.video.name, clip.label) for clip in read_clips(folder / "m.csv").clips] == expected
    (folder / "m.tsv").write_text("video\tlabel\nb.mp4\ta,b\n")
    assert read_clips(folder / "m.tsv").clips[0].label == "a,b"
    rows = '\ufeff{"video": "b.mp4", "label": 3}\r\n\r\n   \n{"video": "a.MKV"}'
    (folder / "m.jsonl").write_bytes(rows.encode())
    assert [clip.label for clip in read_clips(folder / "m.jsonl").clips] == ["3", None]


def test_a_lone_surrogate_is_replaced_in_text_and_kept_in_names(folder):
    name = os.fsdecode(b"bad\xff.mp4")
    (folder / name).write_bytes(b"x")
    (folder / "m.csv").write_bytes(b"video,caption\nbad\xff.mp4,word\n")
    (folder / "m.jsonl").write_text(
        json.dumps({"video": name, "caption": "half \ud83d", "label": "\ude00", "x": "\ud83d"})
    )
    for manifest in ("m.csv", "m.jsonl"):
        (clip,) = read_clips(folder / manifest).clips
        assert clip.video == folder / name
        assert clip.captions[0].text in ("word", "half \ufffd")
    assert (clip.label, clip.extra) == ("\ufffd", {"x": "\ufffd"})
    assert name in [clip.name for clip in read_clips(folder).clips]


def test_files_of_a_folder_that_are_passed_over_are_told(tmp_path):
    for name in (
        "a.mp4",
        "b.MTS",
        "c.xyz",
        "d.XYZ",
        "e.xyz",
        "a.srt",
        "notes",
        "p.jpg",
        ".hidden.abc",
        "sub/f.vob",
        "sub/g.part",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    found = read_clips(tmp_path)
    assert [clip.video.name for clip in found.clips] == ["a.mp4", "b.MTS", "f.vob"]
    assert found.notes == ["passed over: 3 .xyz, 1 without ending, 1 .jpg, 1 .part"]
    others = Counter[str]()
    assert len(list(media_files(tmp_path, MEDIA, others))) == 4
    assert others[".jpg"] == 0
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "a.xyz").write_bytes(b"x")
    with pytest.raises(ManifestError, match=r"no video file .*passed over: 1 \.xyz"):
        read_clips(tmp_path / "only")


def test_common_endings_are_known():
    video = (
        "mts m2ts vob asf mxf f4v qt ogv 3gp 3g2 divx rm rmvb wtv dv mpe m1v m2v mpg ts webm mkv avi mov wmv flv m4v"
    )
    audio = "opus aif aiff caf wma ac3 amr mka oga m4a m4b flac wav mp3 mp2 aac ogg"
    image = "gif jpg jpeg jfif png webp bmp tif tiff"
    for kind, endings in (("video", video), ("audio", audio), ("image", image)):
        assert {f".{ending}" for ending in endings.split()} <= set(KINDS[kind])
    every = [ending for endings in KINDS.values() for ending in endings]
    assert len(every) == len(set(every))
    assert all(ending == ending.lower() for ending in every)


def test_languages_beside_the_videos_of_a_folder_are_told(folder):
    for name in ("b.de.srt", "a.en.vtt", "a.fr.vtt"):
        shutil.copy(folder / "b.srt", folder / name)
    found = read_clips(folder)
    assert found.clips[0].captions == (Caption("hello", 0.0, 1.0),)
    (folder / "m.csv").write_text("video\nb.mp4\na.MKV\n")
    for notes in (found.notes[-1:], read_clips(folder / "m.csv").notes):
        assert len(notes) == 1
        assert "are in several languages; read: " in notes[0]
        assert all(count in notes[0] for count in ("the file without a language 1", "en 1", "de 1", "fr 1"))


def test_nan_as_pandas_writes_it(tmp_path):
    shutil.copy(Path(__file__).parents[1] / "cases" / "nan.jsonl", tmp_path)
    (tmp_path / "one_fps.mp4").write_bytes(b"x")
    (clip,) = read_clips(tmp_path / "nan.jsonl").clips
    assert (clip.label, clip.captions) == (None, ())


def test_nan_in_a_table_is_no_value(folder):
    (folder / "a.csv").write_text("video,caption,label,note\nb.mp4,NaN,nan,NaN\na.MKV,Nan and dad,NaNs,x\n")
    one, two = read_clips(folder / "a.csv").clips
    assert (one.captions, one.label, one.extra) == ((), None, {})
    assert [caption.text for caption in two.captions] == ["Nan and dad"]
    assert (two.label, two.extra) == ("NaNs", {"note": "x"})


def test_rows_that_a_quotation_mark_swallows_are_seen_in_any_column_of_files(folder):
    (folder / "a.csv").write_text('video,audio,caption\nb.mp4,,"5 disk\n,b.wav,yo\nb.mp4,,x"\n')
    with pytest.raises(ManifestError, match=r"line 2, column caption: .* is not closed"):
        read_clips(folder / "a.csv")
