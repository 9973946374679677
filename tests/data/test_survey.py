"""What a data set is like: some clips are opened, broken ones are counted, and nothing hangs."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace

import numpy as np
import pytest

from tests.data.media import flash_at, write
from tests.data.shard_files import Made, write_shards
from vatt.clip import InputConfig
from vatt.data import Clip, read_clips, survey
from vatt.data.captions import Caption
from vatt.data.shards.lines import RowLine

SPEC = InputConfig(size=16, sample_rate=16000)


def film(path, seconds, sound=None):
    """A film of small pictures; ``sound``: its level, None for a film without."""
    tone = np.sin(np.arange(round(seconds * 48000)) * 0.05).astype(np.float32)
    return write(path, flash_at(0, seconds, 10, 48, 64), sound=None if sound is None else sound * tone)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Seven files: two with sound, two silent, one without sound, one cut short, one that is no film."""
    folder = tmp_path_factory.mktemp("films")
    film(folder / "a.mp4", 8, sound=0.5)
    (folder / "a.txt").write_text("a red dog\nit turns left\n")
    film(folder / "b.mp4", 4, sound=0.1)
    film(folder / "c.mp4", 4, sound=0.0)
    film(folder / "d.mp4", 4, sound=1e-6)
    film(folder / "e.mp4", 2)
    (folder / "e.txt").write_text("nothing\n")
    content = film(folder / "f.mp4", 4, sound=0.5).read_bytes()
    (folder / "f.mp4").write_bytes(content[: len(content) // 2])
    (folder / "g.mp4").write_text("no film")
    return folder


def look_at(folder, **options):
    return survey.survey({str(folder): read_clips(folder).clips}, SPEC, **options)


def test_all_there_is_to_tell(folder):
    found = look_at(folder)
    assert (found.clips, found.videos, found.captioned, found.read) == (7, 7, 2, 7)
    assert (found.captions, found.words) == (1.5, 3)
    assert (found.left_right, found.hues) == (pytest.approx(1 / 3), pytest.approx(1 / 3))
    assert found.looked_at == 7
    assert len(found.broken) == 2
    assert "f.mp4" in found.broken[0]
    assert "g.mp4" in found.broken[1]
    assert found.seconds == pytest.approx((2, 4, 4, 4, 8), abs=0.1)
    assert (found.with_sound, found.silent, found.sound) == (4, 2, 2 / 5)
    assert (found.height, found.width) == (48, 64)
    assert found.reading > 0
    assert found.windows(4.0) == round(7 * 6 / 5)
    line = found.line()
    for words in (
        "7 clips",
        "(2 to 8",
        "64 x 48 pixels",
        "captions 29%",
        "sound 80%",
        "50% silent",
        "2 of them broken",
    ):
        assert words in line


def test_the_same_data_give_the_same_survey(folder):
    assert look_at(folder, workers=1) == look_at(folder, workers=3)


def test_a_sound_that_begins_late_is_no_silence(tmp_path):
    sound = np.zeros(12 * 48000, np.float32)
    sound[-4800:] = 0.5
    write(tmp_path / "late.mp4", flash_at(0, 12, 10), sound=sound)
    assert look_at(tmp_path).silent == 0


def test_clips_are_chosen_evenly_from_all_data_sets():
    clips = [Clip(path) for path in map(str, range(100))]
    chosen = list(survey.evenly({"a": clips[:30], "b": clips[30:]}, 10))
    assert [clip.video for _, clip in chosen] == [str(number) for number in range(0, 100, 10)]
    assert [name for name, _ in chosen] == ["a"] * 3 + ["b"] * 7
    assert len(list(survey.evenly({"a": clips}, 1000))) == 100
    assert not list(survey.evenly({"a": []}, 5))


def test_a_clip_that_hangs_or_crashes_its_process_is_broken(folder, monkeypatch):
    whole = survey.look

    def look(item):
        if item.clip.video.name == "b.mp4":
            time.sleep(1000)
        if item.clip.video.name == "c.mp4":
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(item)

    monkeypatch.setattr(survey, "_EACH", 2.0)
    monkeypatch.setattr(survey, "look", look)
    reasons = look_at(folder).broken
    assert len(reasons) == 4
    assert reasons[0].endswith("b.mp4: took more than 4 s")
    assert reasons[1].endswith("c.mp4: the process ended with signal SIGKILL")


def test_it_stops_in_time(folder, monkeypatch):
    monkeypatch.setattr(survey, "look", lambda item: time.sleep(0.3) or survey.Look())
    assert 1 <= look_at(folder, workers=1, seconds=0.4).looked_at < 7


def test_the_range_of_a_clip_counts_and_its_file_once(folder):
    clips = [Clip(folder / "a.mp4", start, start + 2.0, [Caption("one two")]) for start in (0.0, 2.0, 7.0)]
    found = survey.survey({"rows": clips}, SPEC)
    assert (found.clips, found.videos) == (3, 1)
    assert found.seconds == pytest.approx((1, 2, 2), abs=0.1)
    assert "3 clips of 1 files" in found.line()


def test_shards_tell_by_their_index_and_are_listened_to(folder, tmp_path):
    def made(name, **more):
        content = (folder / "a.mp4").read_bytes()
        return Made(name, [(0.0, 8.0, content)], [RowLine(more.pop("row"))], duration=8.0, **more)

    write_shards(tmp_path / "shards", [[made("a.mp4", row=0), made("b.mp4", row=1, sound=None)]], ending="mp4")
    found = look_at(tmp_path / "shards")
    assert (found.clips, found.videos, found.looked_at, found.broken) == (2, 2, 2, ())
    assert found.seconds == (8.0, 8.0)
    assert (found.with_sound, found.silent) == (1, 0)
    assert (found.height, found.width) == (256, 0)
    assert found.heard
    assert "256 pixels on the shorter side" in found.line()


def test_nothing_that_can_be_read(tmp_path):
    (tmp_path / "a.mp4").write_text("no film")
    found = look_at(tmp_path)
    assert (found.good, found.sound, found.typical, found.windows(3.2)) == (0, 1.0, 0.0, 1)
    assert "1 looked at, 1 of them broken" in found.line()
    assert found == replace(found, reading=3.0)
