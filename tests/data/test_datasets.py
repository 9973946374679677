"""What all data sets share: reading annotation files, errors, and the commands of ``vatt data``."""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path

import pytest

from vatt.__main__ import main as vatt
from vatt.cli.data import add_arguments
from vatt.data.captions import Caption
from vatt.data.clips import ManifestError
from vatt.data.datasets import DATASETS, read_dataset
from vatt.data.datasets.reading import json_items
from vatt.data.manifest import read_clips

FIXTURES = Path(__file__).with_name("fixtures")
HOW, SETS = FIXTURES / "howto100m", FIXTURES / "audioset"


@pytest.fixture
def videos(tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ("nVC-aaaaaaa.mp4", "--PJHxphWEs.mkv", "--PJHxphWEs.wav", "--aaaaaaaaa_0.flac"):
        (folder / name).write_bytes(b"x")
    return folder


def test_the_command_writes_what_read_clips_reads(videos, tmp_path, capsys):
    out = tmp_path / "m.jsonl"
    arguments = ["data", "howto100m", "--annotations", str(HOW / "caption.json"), str(HOW / "HowTo100M_v1.csv")]
    assert vatt([*arguments, "--videos", str(videos), "--out", str(out)]) == 0
    assert "1 rows; 1 files missing; 1 entries left out" in capsys.readouterr().out
    clips = read_clips(out).clips
    assert [(clip.start, tuple(clip.captions)) for clip in clips] == [
        (None, (Caption("hi today we cut an onion", 0.0, 2.5), Caption("hold the knife 🔪 like this", 2.5, 4.0)))
    ]
    assert clips[0].label == "Food and Entertaining"
    segments = ["data", "audioset", "--annotations", str(SETS / "balanced_train_segments.csv")]
    assert vatt([*segments, "--videos", str(videos), "--out", str(out)]) == 0
    assert [clip.kind for clip in read_clips(out).clips] == ["video", "audio"]
    empty = tmp_path / "empty"
    empty.mkdir()
    assert vatt([*segments, "--videos", str(empty), "--out", str(out)]) == 1
    assert "not one annotated file" in capsys.readouterr().err


def test_the_command_writes_a_manifest_and_the_missing_names(videos, tmp_path, capsys):
    out, missing = tmp_path / "m.jsonl", tmp_path / "missing.txt"
    arguments = ["data", "audioset", "--annotations", str(SETS / "balanced_train_segments.csv")]
    arguments += ["--annotations", str(SETS / "class_labels_indices.csv"), "--videos", str(videos)]
    assert vatt([*arguments, "--out", str(out), "--missing", str(missing)]) == 0
    shown = capsys.readouterr().out
    assert "2 rows; 1 files missing" in shown
    assert "missing: --gone00000" in shown
    assert missing.read_text() == "--gone00000\n"
    assert [clip.label for clip in read_clips(out).clips] == ["Speech|Gush", "Speech"]
    assert vatt([*arguments, "--out", str(tmp_path / "m.csv")]) == 1
    assert "must end in .jsonl" in capsys.readouterr().err
    assert vatt([*arguments[:-1], str(tmp_path / "absent"), "--out", str(out)]) == 1
    assert "error:" in capsys.readouterr().err


def test_files_of_another_layout_are_named(videos, tmp_path):
    (tmp_path / "c.json").write_text(json.dumps({"id": ["a", "b"]}))
    with pytest.raises(ManifestError, match=r"c\.json, video id: expected start, end and text"):
        read_dataset("howto100m", [tmp_path / "c.json"], videos)
    (tmp_path / "s.csv").write_text("# comment\nabc, 1, 2\n")
    with pytest.raises(ManifestError, match=r"s\.csv, line 2: expected YTID"):
        read_dataset("audioset", [tmp_path / "s.csv"], videos)
    with pytest.raises(ManifestError, match="is the list of labels; give a file of segments"):
        read_dataset("audioset", [SETS / "class_labels_indices.csv"], videos)
    with pytest.raises(ManifestError, match="no such folder of media files"):
        read_dataset("howto100m", [HOW / "caption.json"], tmp_path / "absent")
    (tmp_path / "c.json").write_text("{")
    with pytest.raises(ManifestError, match=r"c\.json: is not JSON"):
        read_dataset("howto100m", [tmp_path / "c.json"], videos)


def test_every_set_refuses_what_is_not_there(videos, tmp_path):
    for name, info in DATASETS.items():
        with pytest.raises(ManifestError, match=r"absent\.csv"):
            read_dataset(name, [tmp_path / "absent.csv"], videos)
        if info.least:
            with pytest.raises(ManifestError, match=f"{name}: needs annotations"):
                read_dataset(name, [], videos)
    with pytest.raises(ManifestError, match="there are audioset, esc50"):
        read_dataset("kinetic", [], videos)


def test_the_commands_of_the_documentation_are_understood():
    text = (Path(__file__).parents[2] / "docs" / "datasets.md").read_text().replace("\\\n", " ")
    commands = [
        shlex.split(line)[2:] for line in text.splitlines() if line.startswith("vatt data") and "..." not in line
    ]
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    assert {parser.parse_args(command).set for command in commands} == {*DATASETS, "check"}


@pytest.mark.parametrize("chunk", [1, 2, 7, 1000])
def test_a_large_object_is_read_entry_by_entry(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr("vatt.data.datasets.reading.CHUNK", chunk)
    value = {"a": {"text": ["x \u2028 y", 'quoted "}" {'], "start": [1.25, 1e3]}, "b": 12345, "é": [], "d": None}
    path = tmp_path / "c.json"
    for text in (json.dumps(value), json.dumps(value, indent=2, ensure_ascii=False) + "\n", "{ }"):
        path.write_text(text)
        assert dict(json_items(path)) == json.loads(text)
    for text in ('{"a": 1', '{"a": 1,', '{"a" 1}', '{"a": 1}}', "[1]", "", '{"a": [1, }', "{1: 2}"):
        path.write_text(text)
        with pytest.raises(ManifestError, match=r"c\.json: is not JSON"):
            list(json_items(path))
