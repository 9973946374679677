"""Published annotation files to manifests, on small pieces of the real formats."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vatt.data.adapters import audioset, howto100m, main
from vatt.data.manifest import ManifestError, read_clips

FIXTURES = Path(__file__).with_name("fixtures")
HOW, SETS = FIXTURES / "howto100m", FIXTURES / "audioset"


@pytest.fixture
def videos(tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ("nVC-aaaaaaa.mp4", "--PJHxphWEs.mkv", "--aaaaaaaaa_0.mp4"):
        (folder / name).write_bytes(b"x")
    return folder


def test_howto100m(videos, tmp_path):
    found = howto100m(HOW / "caption.json", videos, HOW / "HowTo100M_v1.csv")
    assert [(r["start"], r["end"], r["caption"]) for r in found.rows] == [
        (0.0, 2.5, "hi today we cut an onion"),
        (2.5, 4.0, "hold the knife 🔪 like this"),
    ]
    assert found.rows[0]["label"] == "Food and Entertaining"
    assert found.rows[0]["task_id"] == "4711"
    assert found.missing == ["deleted-123"]
    assert found.left_out == ["nVC-aaaaaaa: ends at 8 s, before its start at 9 s"]


def test_audioset(videos):
    found = audioset(SETS / "balanced_train_segments.csv", videos, SETS / "class_labels_indices.csv")
    assert [(Path(r["video"]).name, r.get("start"), r.get("end"), r["label"]) for r in found.rows] == [
        ("--PJHxphWEs.mkv", 30.0, 40.0, "Speech|Gush"),
        ("--aaaaaaaaa_0.mp4", None, None, "Speech"),  # already cut out
    ]
    assert found.missing == ["--gone00000"]


def test_command_line_writes_a_manifest_that_is_read_back(videos, tmp_path, capsys):
    out = tmp_path / "m.jsonl"
    arguments = ["howto100m", "--captions", str(HOW / "caption.json"), "--videos", str(videos), "--out", str(out)]
    assert main(arguments) == 0
    assert "2 rows; 1 videos missing; 1 entries left out" in capsys.readouterr().out
    clips = read_clips(out).clips
    assert [len(clip.captions) for clip in clips] == [2, 2]
    empty = tmp_path / "empty"
    empty.mkdir()
    assert main([*arguments[:4], str(empty), *arguments[5:]]) == 1
    assert "not one annotated video" in capsys.readouterr().err


def test_files_of_another_layout_are_named(videos, tmp_path):
    (tmp_path / "c.json").write_text(json.dumps({"id": ["a", "b"]}))
    with pytest.raises(ManifestError, match=r"c\.json, video id: expected start, end and text"):
        howto100m(tmp_path / "c.json", videos)
    (tmp_path / "s.csv").write_text("# comment\nabc, 1, 2\n")
    with pytest.raises(ManifestError, match=r"s\.csv, line 2: expected YTID"):
        audioset(tmp_path / "s.csv", videos)
    with pytest.raises(ManifestError, match="has no column display_name, mid"):
        audioset(SETS / "balanced_train_segments.csv", videos, HOW / "HowTo100M_v1.csv")
    with pytest.raises(ManifestError, match="no such folder of videos"):
        howto100m(HOW / "caption.json", tmp_path / "absent")
