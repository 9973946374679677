"""The clips of shards: those of the manifest, built when they are asked for; and shards with something wrong."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.data.shard_files import SETTINGS, Made, write_shards
from vatt.clip import InputConfig
from vatt.data import Clip, ManifestError, MediaError, choose_split, hold_out, other_splits, read_clips, splits_of
from vatt.data.captions import Caption
from vatt.data.clips import check_packing, count_captioned, kinds_of
from vatt.data.decode import Packing
from vatt.data.shards import storage
from vatt.data.shards.lines import RowLine
from vatt.errors import UserError

CAPTIONS = (Caption("a dog runs", 0.0, 2.0), Caption("it rests", 2.0, 4.5))


def sources() -> list[Made]:
    """Four sources; their rows are mixed in the manifest, and the last one has captions of its own."""
    return [
        Made(
            "a/film.mp4",
            [(0.0, 63.2, b"first" * 1000), (60.0, 40.0, b"second" * 1000)],
            [RowLine(3, 1.0, 9.0, "run", "train", {"fold": "1"}), RowLine(0, 20.0, 90.0, None, "val")],
            duration=100.0,
            captions=CAPTIONS,
        ),
        Made("b/film.mp4", [(0.0, 10.0, b"b" * 700)], [RowLine(1, label="rest")], sound=None),
        Made("c.wav", [(0.0, 10.0, b"c" * 700)], [RowLine(4)], kind="audio"),
        Made("d.jpg", [(0.0, 0.0, b"d" * 70)], [RowLine(2, captions=(Caption("own"),))], kind="image", duration=0.0),
    ]


@pytest.fixture
def shards(tmp_path):
    write_shards(tmp_path / "shards", [sources()[:3], sources()[3:]])
    return tmp_path / "shards"


def test_the_clips_are_those_of_the_manifest_in_its_order(shards):
    found = read_clips(shards)
    assert found.skipped == []
    assert [replace(clip, packed=None) for clip in found.clips] == [
        Clip(shards / "a/film.mp4", 20.0, 90.0, CAPTIONS, None, "val"),
        Clip(shards / "b/film.mp4", None, None, (), "rest"),
        Clip(shards / "d.jpg", None, None, (Caption("own"),), kind="image"),
        Clip(shards / "a/film.mp4", 1.0, 9.0, CAPTIONS, "run", "train", {"fold": "1"}),
        Clip(shards / "c.wav", kind="audio"),
    ]
    assert choose_split(found.clips, "VAL", "shards")[0] == found.clips[0]
    assert [clip.start for clip in found.clips[2:4]] == [None, 1.0]
    assert found.clips[-1].kind == "audio"
    with pytest.raises(IndexError):
        found.clips[5]
    assert kinds_of(found.clips) == kinds_of(list(found.clips)) == ["video", "video", "image", "video", "audio"]
    assert count_captioned(found.clips) == count_captioned(list(found.clips)) == 3
    assert found.clips.groups().tolist() == [0, 0, 1, 0, 0]


def test_columns_hold_out_what_a_list_does(shards):
    clips = read_clips(shards).clips
    assert [list(side) for side in hold_out(clips, 0.5)] == list(hold_out(list(clips), 0.5))
    assert other_splits(clips) is other_splits(list(clips)) is None
    assert str(splits_of(clips)) == str(splits_of(list(clips))) == "train 4, val 1, test 0"


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.97])
def test_without_splits_the_names_decide(tmp_path, share):
    made = [Made(f"folder{n % 3}/film{n}.mp4", [(0.0, 10.0, b"x")], [RowLine(n)]) for n in range(60)]
    write_shards(tmp_path / "shards", [made[:50], made[50:]])
    clips = read_clips(tmp_path / "shards").clips
    sides = hold_out(clips, share)
    assert [list(side) for side in sides] == list(hold_out(list(clips), share))
    files = [
        Clip(Path("elsewhere") / made[n].source, name=made[n].source) for n in range(60)
    ]  # as read from the files themselves
    assert [[clip.video.name for clip in side] for side in sides] == [
        [clip.video.name for clip in side] for side in hold_out(files, share)
    ]


def test_a_piece_is_a_file_of_its_own(shards):
    packed = read_clips(shards).clips[0].packed
    assert (packed.duration, packed.sound, packed.packing) == (100.0, 10.0, Packing(str(shards), 256, 10.0, 3.2))
    piece = packed.piece(61.0, 3.2)
    assert piece.name == f"{shards}/shard-000000.tar: 00000000-0001.mov"
    assert (piece.begins, piece.seconds) == (60.0, 40.0)
    piece.expect()
    with piece.open() as file:
        assert file.read() == b"second" * 1000
        assert file.seek(-7, os.SEEK_END) == 5993
        assert file.read(3) + file.read(100) == b"dsecond"
        assert file.read() == b""
        assert file.seek(2) == file.tell() == 2
        assert file.seek(4, os.SEEK_CUR) == 6
        assert file.read(6) == b"second"
        assert file.seek(10**9) == 10**9
        assert file.read(5) == b""
        file.seek(0)
        assert file.readinto(memory := bytearray(6)) == 6
        assert memory == b"second"
    with pytest.raises(MediaError, match=r"shard-000000.tar: a/film.mp4: pieces: none holds 45 s from 30 s on"):
        packed.piece(30.0, 45.0)


def test_few_files_stay_open(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "_OPEN_FILES", 2)
    write_shards(tmp_path / "s", [[Made(f"{n}.mp4", [(0.0, 10.0, bytes([n]) * 9)], [RowLine(n)])] for n in range(5)])
    before = len(os.listdir("/proc/self/fd"))
    clips = read_clips(tmp_path / "s").clips
    pieces = [clip.packed.piece(0.0, 3.2).open() for clip in clips]
    assert [piece.read(5) for piece in pieces] == [bytes([n]) * 5 for n in range(5)]
    assert [piece.read() for piece in pieces] == [bytes([n]) * 4 for n in range(5)]
    assert len(os.listdir("/proc/self/fd")) <= before + 2


def test_what_could_not_be_packed_is_among_the_skipped(shards):
    fault = {"file": "gone.mp4", "field": "video", "reason": "no such file"}
    (shards / "faults.jsonl").write_text(json.dumps(fault) + "\n")
    index = json.loads((shards / "index.json").read_text())
    (shards / "index.json").write_text(json.dumps(index | {"faults": 1}))
    assert read_clips(shards).skipped == [fault]
    (shards / "faults.jsonl").write_text(json.dumps(fault) + '\n{"file": ' + "[" * 9999)
    with pytest.raises(UserError, match=r"faults\.jsonl, line 2: "):
        read_clips(shards)


def cut(path, size):
    with path.open("r+b") as file:
        file.truncate(size)


def test_a_truncated_shard_names_the_first_member_that_is_lost(shards):
    cut(shards / "shard-000000.tar", 7000)
    with pytest.raises(
        ManifestError,
        match=r"shard-000000.tar: has 7000 bytes, index.json says \d+: 00000000-0001.mov and what follows are lost",
    ):
        read_clips(shards)


def test_a_shard_that_grew_was_changed(shards):
    with (shards / "shard-000001.tar").open("ab") as file:
        file.write(b"more")
    with pytest.raises(ManifestError, match=r"shard-000001.tar: has \d+ bytes, index.json says \d+: it was changed"):
        read_clips(shards)


@pytest.mark.parametrize("name", ["shard-000001.tar", "shard-000000.jsonl"])
def test_a_missing_file_is_named(shards, name):
    (shards / name).unlink()
    with pytest.raises(ManifestError, match=f"{name}: no such file, though index.json names it"):
        read_clips(shards)


def test_a_shard_lost_during_a_run_is_a_skipped_clip(shards):
    clips = read_clips(shards).clips
    clip = clips[0]
    cut(shards / "shard-000000.tar", 7000)
    piece = clip.packed.piece(61.0, 3.2)
    with pytest.raises(MediaError, match=r"shard-000000.tar: 00000000-0001.mov: shard: ends at byte 7000, before"):
        piece.open().read()
    (shards / "shard-000000.tar").unlink()
    clip.packed._set.storage.__setstate__({"name": str(shards)})  # as in a worker that has not opened it before
    with pytest.raises(MediaError, match=r"shard-000000.tar: 00000000-0001.mov: shard: no such file"):
        piece.open()
    (shards / "shard-000001.jsonl").unlink()
    clips._set.lines.__setstate__({"name": str(shards)})
    with pytest.raises(MediaError, match=r"shard-000001.jsonl: index: no such file"):
        clips[2]


def test_changed_lines_are_noticed(shards):
    path = shards / "shard-000001.jsonl"
    path.write_text(path.read_text().replace("own", "OWN"))
    with pytest.raises(ManifestError, match=r"shard-000001.jsonl: \d+ bytes with another SHA-256 than index.json says"):
        read_clips(shards)


def test_a_row_that_is_there_twice(tmp_path):
    write_shards(tmp_path, [[Made(f"{n}.mp4", [(0.0, 10.0, b"x")], [RowLine(7)]) for n in range(2)]])
    with pytest.raises(ManifestError, match=r"index.json: row 7 of the manifest is there twice"):
        read_clips(tmp_path)


def test_an_index_that_is_none(tmp_path, shards):
    (tmp_path / "other").mkdir()
    (tmp_path / "other/index.json").write_text("[1, 2]")
    with pytest.raises(ManifestError, match="other: no video file"):  # a folder of videos may hold such a file
        read_clips(tmp_path / "other")
    content = json.loads((shards / "index.json").read_text())
    (shards / "index.json").write_text(json.dumps(content | {"version": 9}))
    with pytest.raises(ManifestError, match=r"shards/index.json: version: 9, but this program reads 1"):
        read_clips(shards)
    (shards / "index.json").unlink()
    with pytest.raises(ManifestError, match=r"shards: shards without index.json, which `vatt data pack` writes last"):
        read_clips(shards)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (dict(frames=32, fps=10), None),
        (dict(frames=16, fps=5), None),
        (dict(frames=33, fps=10), "packed for windows of up to 3.2 s, the model reads 3.3"),
        (dict(frames=40, fps=12.5), "packed with 10 frames a second, the model reads 12.5: pack with --fps 12.5"),
    ],
)
def test_a_model_that_asks_for_more_than_was_packed(shards, spec, words, caplog):
    clips = read_clips(shards).clips
    spec = InputConfig(**spec, size=224)
    for some in (clips, list(clips)):
        if words is None:
            check_packing(some, spec)
        else:
            with pytest.raises(ManifestError, match=f"^{shards}: {words}"):
                check_packing(some, spec)
    check_packing([clips[2]], InputConfig(frames=64, fps=25, size=224))  # a picture has neither
    check_packing([Clip(Path("film.mp4"))], InputConfig(frames=64, fps=25, size=224))
    check_packing(clips, InputConfig(frames=64, fps=20, size=224), sound_only=True)
    assert "shorter side" not in caplog.text


def test_larger_pictures_than_packed_are_a_warning_once(shards, caplog):
    clips = read_clips(shards).clips
    for _ in range(2):
        check_packing(clips, InputConfig(size=320))
    assert caplog.text.count(f"{shards}: packed with 256 pixels on the shorter side, the model reads 320") == 1


def test_a_part_of_a_million_clips_stays_small(tmp_path):
    made = [Made(f"{n}.mp4", [(0.0, 10.0, b"x")], [RowLine(n)]) for n in range(3000)]
    write_shards(tmp_path, [made], SETTINGS)
    clips = read_clips(tmp_path).clips
    columns = clips._columns
    size = clips._numbers_N.nbytes + sum(x.nbytes for x in vars(columns).values() if isinstance(x, np.ndarray))
    assert size / len(clips) < 60


def test_shards_without_a_clip(tmp_path):
    write_shards(tmp_path / "empty", [])
    with pytest.raises(ManifestError, match=r"empty: holds no clip$"):
        read_clips(tmp_path / "empty")


def test_a_local_folder_needs_no_cache(shards, tmp_path):
    read_clips(shards, cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
