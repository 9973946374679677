"""The large set: what it has beside the default one, which stays as it is; and a build that goes on."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from itertools import combinations, product

import numpy as np
import pytest

from vatt.sample import SampleError, build, writing
from vatt.sample.draw import RGB, frames_TSS3
from vatt.sample.scene import COLOURS, MOTIONS, SETS, SHAPES, SIZES, motion_of, scenes
from vatt.sample.sound import waveform
from vatt.sample.words import captions, srt

LARGE = SETS["large"]
VALUES = {"shape": SHAPES, "colour": COLOURS, "motion": MOTIONS, "size": SIZES}


@pytest.fixture(scope="module")
def dealt():
    return scenes(LARGE.train, LARGE.val, 0, LARGE)


def test_the_default_set_is_what_it_was():
    """Names, seeds and words exactly; pixels and sound but for the roundings of a processor."""
    dealt = scenes(768, 96, seed=0)
    told = "".join(srt(captions(scene, 4.0)) for scene in dealt[::50])
    told += repr([scene.columns() for scene in dealt])
    assert hashlib.sha256(told.encode()).hexdigest().startswith("6f7e2c614ee1cee4")
    scene = dealt[7]
    video, sound = frames_TSS3(scene, 60, 15, 112), waveform(scene, 4.0, 48000)
    np.testing.assert_allclose(
        video[::20, 40::30, 40::30].mean(-1).ravel(),
        [
            108,
            88,
            90,
            108,
            58,
            59,
            95,
            85,
            96,
            108,
            108,
            90,
            108,
            108,
            59,
            107,
            85,
            96,
            66,
            88,
            90,
            108,
            58,
            59,
            95,
            85,
            96,
        ],
        atol=1,
    )
    np.testing.assert_allclose(
        sound[1000:190000:27000], [-0.05693, -0.155, -0.07423, -0.08768, 0.12828, 0.0898, 0.04324], atol=1e-4
    )
    assert (SETS["default"].format, SETS["default"].folder) == (8, "runs/sample-clips")


def test_held_out_combinations_are_new_but_each_shape_was_seen_with_every_colour_and_motion(dealt):
    def seen(split, *names):
        return {tuple(getattr(scene, name) for name in names) for scene in dealt if scene.split == split}

    assert (len(dealt), len({scene.seed for scene in dealt})) == (6144 + 384, 6144 + 384)
    held_out = seen("val", *VALUES)
    assert len(held_out) == 96
    assert not held_out & seen("train", *VALUES)
    for names in combinations(VALUES, 3):  # so of three attributes none is told by the two others
        assert seen("train", *names) == set(product(*(VALUES[name] for name in names)))
    for names in combinations(VALUES, 2):
        assert seen("val", *names) == set(product(*(VALUES[name] for name in names)))


def test_things_are_larger_and_colours_are_what_their_names_say(dealt):
    """By a picture of some of the scenes: the median colour of what lies where the thing is."""
    names, table = list(RGB), np.array(list(RGB.values()), float)
    for scene in dealt[:: len(dealt) // 60]:
        path, picture = motion_of(scene).path(np.zeros(1)), frames_TSS3(scene, 1, LARGE.fps, 64)[0].astype(float)
        axis = (np.arange(64) + 0.5) / 32 - 1
        away = np.hypot(axis[None, :] - path.x[0], axis[:, None] - path.y[0])
        radius = LARGE.look.radius[scene.size] * path.scale[0]
        inside = away < 0.3 * radius
        if scene.shape == "ring":  # whose middle is empty
            inside = np.abs(away - 0.72 * radius) < 0.08
        # by the direction alone, since a colour may be darker than its name's
        found = np.median(picture[inside], axis=0)
        likeness = table @ found / np.linalg.norm(table, axis=1) / np.linalg.norm(found)
        assert scene.colour in [names[number] for number in likeness.argsort()[-2:]], scene
    assert all(LARGE.look.radius[size] > SETS["default"].look.radius[size] for size in SIZES)


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_build_that_was_stopped_goes_on_and_gives_the_same_bytes(tmp_path, monkeypatch):
    write, written, said = writing.write_mp4, [], []
    few = {"name": "large", "train": 2, "val": 1, "workers": 1}

    def stops(path, *arguments, **settings):
        write(path, *arguments, **settings)
        written.append(path)
        if len(written) == 2:  # in the middle of a clip
            raise KeyboardInterrupt

    whole = build(tmp_path / "whole", seed=3, **few).parent
    monkeypatch.setattr(writing, "write_mp4", stops)
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "set", seed=4, **few)
    written.clear()
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "set", seed=3, **few, say=said.append)  # another seed begins anew
    assert not (tmp_path / "set").exists()
    monkeypatch.setattr(writing, "write_mp4", write)
    first = written[0].parent / "0000.mp4"
    before = first.stat()
    again = build(tmp_path / "set", seed=3, **few, say=said.append).parent
    assert "earlier" not in said[0]
    assert said[1].endswith("3 clips of 4 s to " + str(again) + ", of which 1 are there from an earlier build")
    assert (again / "train" / "0000.mp4").stat().st_mtime_ns == before.st_mtime_ns
    assert contents(again) == contents(whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set", "whole"]
    columns = (whole / "manifest.csv").read_text().splitlines()[0]
    assert columns == "video,label,split,shape,colour,size,motion,background,seed"
    assert max(path.stat().st_size for path in whole.rglob("*.mp4")) < 90_000
    with pytest.raises(SampleError, match="is not empty"):
        build(whole, seed=3, train=2, val=1)


def test_two_builds_of_one_folder_do_not_mix(tmp_path):
    partly = tmp_path / ".set.partly"
    partly.mkdir()
    (partly / "began.json").write_text(json.dumps({}))
    other = os.open(partly, os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    with pytest.raises(SampleError, match="set: another process is writing this set"):
        build(tmp_path / "set", name="large", train=1, val=1)
    os.close(other)
    assert (partly / "began.json").exists()
