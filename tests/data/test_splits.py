"""Which clips train, which are held out, and that val and test stay apart."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.data.media import click_at, flash_at, write
from vatt.__main__ import main as vatt
from vatt.data.clips import Clip, ManifestError
from vatt.data.config import DataConfig
from vatt.data.manifest import read_clips
from vatt.data.splits import choose_split, hold_out, other_splits, splits_of
from vatt.inference.job import read_items


def named(*splits):
    return [Clip(Path(f"{number}.mp4"), split=split) for number, split in enumerate(splits)]


def of(clips):
    return [clip.split for clip in clips]


def test_val_and_test_are_never_mixed():
    clips = named("train", "val", None, "test", "other", "Valid", "validation", "TEST")
    training, held = hold_out(clips, 0.5)
    assert (of(training), of(held)) == (["train", None], ["val", "Valid", "validation"])
    assert [of(side) for side in hold_out(clips, 0.5, "test")] == [["train", None], ["test", "TEST"]]
    assert of(hold_out(clips, 0.5, " Other ")[1]) == ["other"]
    assert str(splits_of(clips)) == "train 2, val 3, test 2; 1 in other splits: other 1"


def test_test_stands_in_for_val_alone():
    clips = named("train", "test")
    assert of(hold_out(clips)[1]) == ["test"]
    assert splits_of(clips).held_out() == splits_of(clips).held_out("validation") == "test"
    assert hold_out(named("train", "val"), split="test")[1] == []
    assert hold_out(named("train", "x"))[1] == []


def test_a_split_is_chosen_by_any_of_its_names_and_a_missing_one_is_refused():
    clips = named("train", "valid", "holdout")
    assert choose_split(clips, None, "m") is choose_split(clips, "all", "m") is clips
    assert of(choose_split(clips, "VAL", "m")) == ["valid"]
    assert of(choose_split(clips, "holdout", "m")) == ["holdout"]
    with pytest.raises(
        ManifestError, match="m, column split: no clip of 'test'; there are train 1, val 1, test 0; 1 in"
    ):
        choose_split(clips, "test", "m")
    plain = named(*[None] * 100)
    parts = [choose_split(plain, name, "m") for name in ("train", "val")]
    assert [len(part) for part in parts] == [len(side) for side in hold_out(plain)]
    with pytest.raises(ManifestError, match=r"no clip of 'test'; there are train \d+, val \d+ \(no split is named"):
        choose_split(plain, "test", "m")


def test_without_splits_videos_stay_on_their_side(tmp_path):
    plain = [Clip(tmp_path / f"{i}.mp4", name=f"{i}.mp4") for i in range(1000)]
    training, held = hold_out(plain, 0.1)
    assert len(training) + len(held) == 1000
    assert 60 < len(held) < 140
    more = plain + [Clip(tmp_path / f"new{i}.mp4", name=f"new{i}.mp4") for i in range(50)]
    assert {clip.video for clip in held} <= {clip.video for clip in hold_out(more, 0.1)[1]}
    assert hold_out(plain, 0.0)[1] == []


def folder_of_folders(top):
    for number in range(40):
        (top / f"id{number}").mkdir(parents=True)
        (top / f"id{number}" / "video.mp4").write_bytes(b"x")
    return top


def sides(path):
    return [sorted(clip.video.parent.name for clip in side) for side in hold_out(read_clips(path).clips, 0.3)]


def test_files_of_one_name_are_told_apart_by_their_folders(tmp_path, monkeypatch):
    top = folder_of_folders(tmp_path / "clips")
    found = sides(top)
    assert 4 < len(found[1]) < 20
    assert 4 <= len(hold_out(read_clips(top).clips, 0.25)[1]) <= 16  # about 10
    shutil.move(top, tmp_path / "moved")
    assert sides(tmp_path / "moved") == found
    monkeypatch.chdir(tmp_path / "moved")
    assert sides(".") == found
    names = [f"id{number}/video.mp4" for number in range(40)]
    (tmp_path / "moved" / "plain.csv").write_text("\n".join(["video", *names]))
    (tmp_path / "moved" / "dots.csv").write_text("\n".join(["video", *(f"./{name}" for name in names)]))
    absolute = [str(tmp_path / "moved" / name) for name in names]
    (tmp_path / "moved" / "absolute.csv").write_text("\n".join(["video", *absolute]))
    for manifest in ("plain.csv", "dots.csv", "absolute.csv", str(tmp_path / "moved" / "plain.csv")):
        assert sides(manifest) == found, manifest


def test_rows_of_a_video_are_on_one_side_and_any_name_will_do(tmp_path):
    odd = os.fsdecode(b"caf\xe9.mp4")
    names = [odd, *(f"{number}.mp4" for number in range(30))]
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    rows = [f"{name},{start},{start + 1}" for start in range(3) for name in names[1:]]
    (tmp_path / "m.csv").write_text("\n".join(["video,start,end", *rows]))
    training, held = hold_out(read_clips(tmp_path / "m.csv").clips, 0.4)
    assert len(held) % 3 == 0 < len(held)
    assert not {clip.video for clip in training} & {clip.video for clip in held}
    assert len(splits_of(read_clips(tmp_path).clips, 0.4).clips) == 31


def test_other_names_are_counted(tmp_path):
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "m.csv").write_text("video,split\na.mp4,Train\nb.mp4, TEST\na.mp4,extra\nb.mp4,holdout\nb.mp4,extra\n")
    clips = read_clips(tmp_path / "m.csv").clips
    assert [len(side) for side in hold_out(clips, 0.5)] == [1, 1]
    assert other_splits(clips).startswith("3 clips are in splits that are not used: extra (2), holdout (1); known are")
    assert other_splits(clips[:2]) is None
    assert splits_of(clips).counts == {"train": 1, "val": 0, "test": 1, "extra": 2, "holdout": 1}


@pytest.mark.parametrize("name", ["", "train", "All"])
def test_a_run_does_not_evaluate_on_what_it_trains_on(name):
    with pytest.raises(ValueError, match="eval_split"):
        DataConfig(eval_split=name)


@pytest.fixture
def three(tmp_path):
    """A manifest with a film in each of train, valid and test."""
    for number, name in enumerate(("train", "valid", "test")):
        write(tmp_path / f"{name}.mp4", flash_at(1, 2, 10, 32, 32), sound=click_at(0.2 * number, 2))
    rows = ["video,split,caption", *(f"{name}.mp4,{name},a film" for name in ("train", "valid", "test"))]
    (tmp_path / "m.csv").write_text("\n".join(rows))
    return tmp_path / "m.csv"


def test_embedding_holds_out_the_share_that_a_run_did(tmp_path):
    for number in range(40):
        (tmp_path / f"{number}.mp4").write_bytes(b"x")
    for share in (0.2, 0.6):
        wanted = {str(clip.video) for clip in splits_of(read_clips(tmp_path).clips, share).of("val")}
        assert {item.file for item in read_items(tmp_path, "video", "val", share).items} == wanted


def test_commands_take_one_split_alone(three, tmp_path, capsys):
    for modality in ("video", "audio", "text"):
        items = read_items(three, modality, "val").items
        assert [Path(item.file).name for item in items] == ["valid.mp4"]
        assert len(read_items(three, modality).items) == 3
    with pytest.raises(ManifestError, match="no clip of 'dev'; there are train 1, val 1, test 1"):
        read_items(three, "video", "dev")
    (tmp_path / "lines.txt").write_text("one\n")
    with pytest.raises(ManifestError, match="lines of text are in no split"):
        read_items(tmp_path / "lines.txt", "text", "val")
    assert vatt(["data", "check", str(three), "--split", "validation", "--out", str(tmp_path / "clean.jsonl")]) == 0
    assert capsys.readouterr().out.startswith("1 files tried")
    assert [clip.split for clip in read_clips(tmp_path / "clean.jsonl").clips] == ["valid"]
    assert vatt(["data", "check", str(three), "--split", "dev"]) == 1
    assert "m.csv, column split: no clip of 'dev'" in capsys.readouterr().err
    shards = tmp_path / "shards"
    assert vatt(["data", "pack", str(three), "--out", str(shards), "--split", "test", "--jobs", "1"]) == 0
    assert [(clip.split, clip.name) for clip in read_clips(shards).clips] == [("test", "test.mp4")]
