"""The pictures of the sample set: the middle frames of its clips."""

from __future__ import annotations

import av
import numpy as np
import pytest

from vatt.data import read_clips
from vatt.sample import SampleError, build
from vatt.sample.pictures import build_pictures


def frames(path):
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_pictures_are_the_middle_frames(tmp_path):
    videos = read_clips(build(tmp_path / "sample", train=2, val=1, workers=1)).clips
    manifest = build_pictures(tmp_path / "sample")
    pictures = read_clips(manifest).clips
    assert [p.kind for p in pictures] == ["image"] * 3
    for video, picture in zip(videos, pictures, strict=True):
        assert (picture.label, picture.split, picture.extra) == (video.label, video.split, video.extra)
        (still,) = frames(picture.video)
        moving = frames(video.video)
        assert np.array_equal(still, moving[len(moving) // 2])
    before = picture.video.stat().st_mtime_ns
    assert build_pictures(tmp_path / "sample") == manifest
    assert picture.video.stat().st_mtime_ns == before
    assert sorted(p.name for p in (tmp_path / "sample").iterdir() if p.name.startswith(".pict")) == []


def test_a_folder_without_a_sample_is_refused(tmp_path):
    with pytest.raises(SampleError, match="cannot write the pictures"):
        build_pictures(tmp_path)
