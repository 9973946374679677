"""How a data set is divided: ranges merged and cut into pieces, so that each window lies in one; groups by size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vatt.clip import InputConfig
from vatt.data.captions import Caption
from vatt.data.clips import Clip
from vatt.data.pack.plan import (
    PackError,
    data_digest,
    make_plan,
    needed,
    plan_pieces,
    plan_sources,
    read_plan,
)
from vatt.data.shards.format import Settings
from vatt.data.shards.lines import PieceLine, SourceLine
from vatt.data.windows import window_start

SETTINGS = Settings(64, 10.0, 3.2, 60.0, 10**9, 48000, "mpeg4 q=3", "pcm", "mjpeg q=2")


def ranges(duration: float, *rows: tuple[float | None, float | None], **changed):
    """The pieces of a source of these rows, and what each row needs."""
    settings = replace(SETTINGS, **changed)
    clips = [Clip(Path("a.mp4"), start, end) for start, end in rows]
    (source,) = plan_sources(clips, Path("."))
    pieces = plan_pieces(source, duration, settings)
    return [(p.first, p.frames) for p in pieces], [needed(r, source, pieces, duration, settings) for r in source.rows]


def test_ranges_are_merged_and_cut():
    assert ranges(10.03, (None, None)) == ([(0, 101)], [{0}])
    assert ranges(500, (10, 20), (15, 30), (100, 110)) == ([(99, 202), (999, 102)], [{0}, {0}, {1}])
    assert ranges(500, (100, 101)) == ([(977, 56)], [{0}])  # 97.8 to 103.2: any window that covers it, and 0.1 s
    assert ranges(60, (58, 70)) == ([(567, 33)], [{0}])
    assert ranges(0, (None, None)) == ([(0, 32)], [{0}])  # its length is not known: it is read from its start
    pieces, need = ranges(150, (None, None), (50, 55), (59, 70), (61, 62), (130, 140))
    assert pieces == [(0, 633), (600, 633), (1200, 300)]
    assert need == [{0, 1, 2}, {0}, {0, 1}, {0, 1}, {2}]


@pytest.mark.parametrize("duration", [2.0, 10.03, 63.2, 63.4, 125.0])
def test_each_window_that_can_be_chosen_lies_in_one_piece(duration):
    rng, spec = np.random.default_rng(0), InputConfig()
    for _ in range(60):
        start, length = rng.uniform(0, duration), rng.uniform(0.1, 80)
        clip = Clip(Path("a.mp4"), start, start + length)
        (source,) = plan_sources([clip], Path("."))
        plan = plan_pieces(source, duration, SETTINGS)
        pieces = [PieceLine("a.mkv", 512, 1, "", p.first / 10, p.frames / 10) for p in plan]
        line = SourceLine("a", 0, "video", 1, "", duration, None, source.rows, (), pieces)
        used = needed(source.rows[0], source, plan, duration, SETTINGS)
        for position in (0.0, 0.3, 0.5, 0.99999, 1.0):
            at = window_start(clip, duration, spec, position)
            piece = line.piece(at, spec.seconds)
            assert piece is not None, (start, length, at, plan)
            assert piece.begins <= at + 1e-6
            assert min(at + spec.seconds, duration) <= piece.begins + piece.seconds + 1e-6
            assert pieces.index(piece) in used


def test_sources_are_mixed_and_hold_their_rows():
    said = (Caption("a", 0.0, 1.0),)
    clips = [Clip(Path(f"/data/{n // 2}.mp4"), 1.0 * n, 1.0 * n + 1, said, label=str(n)) for n in range(200)]
    clips.append(Clip(Path("/data/0.mp4"), captions=(Caption("of its own"),)))
    clips.append(Clip(Path("/other/x.wav"), kind="audio"))
    sources = plan_sources(clips, Path("/data"))
    assert sorted(source.number for source in sources) == list(range(101))
    places = np.array([source.number for source in sources])
    assert np.abs(np.diff(places)).mean() > 20  # neighbours in the data set are not neighbours in shards
    (first,) = [source for source in sources if source.number == 0]
    assert (first.name, [row.number for row in first.rows]) == ("0.mp4", [0, 1, 200])
    assert (first.captions, first.rows[0].captions, first.rows[2].captions) == (said, None, (Caption("of its own"),))
    assert [source.name for source in sources if source.kind == "audio"] == ["/other/x.wav"]


def test_the_digest_changes_with_any_row_or_caption():
    clips = [Clip(Path("a.mp4"), captions=(Caption("x"),)), Clip(Path("b.mp4"), 1.0, 2.0, extra={"k": "v"})]
    others = [
        clips[:1],
        [clips[0], replace(clips[1], end=2.5)],
        [clips[0], replace(clips[1], extra={})],
        [clips[0], replace(clips[1], label="v")],
        [replace(clips[0], captions=(Caption("y"),)), clips[1]],
        [replace(clips[0], captions=(Caption("x", 0.0, 1.0),)), clips[1]],
    ]
    digests = [data_digest(plan_sources(some, Path("."))) for some in (clips, *others)]
    assert len(set(digests)) == len(digests)
    assert data_digest(plan_sources(list(clips), Path("."))) == digests[0]


def test_groups_follow_the_estimate_and_the_plan_comes_back():
    clips = [Clip(Path(f"{n}.mp4"), 0.0, 10.0) for n in range(50)]
    settings = replace(SETTINGS, shard_size=4_000_000)
    plan = make_plan(plan_sources(clips, Path(".")), settings, 1e-5, "d")
    assert [plan.range(n) for n in range(3)] == [(0, 2), (2, 4), (4, 6)]
    assert len(plan.groups) == len(plan.estimates) == 25
    assert all(0.3 * settings.shard_size < size <= 0.75 * settings.shard_size for size in plan.estimates)
    assert read_plan(plan.text(), Path("plan.json")) == plan
    with pytest.raises(PackError, match=r"^plan\.json: cannot be read"):
        read_plan("{}", Path("plan.json"))
