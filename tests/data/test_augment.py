"""Crops, colours and noise: their ranges, and that a clip is treated as one."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest

from vatt.data.augment import CentreView, RandomView, augment_audio
from vatt.data.config import AugmentConfig, DataConfig
from vatt.data.decode import Box, RgbFrames

STILL = dict(flip=False, brightness=0.0, saturation=0.0, contrast=0.0, hue=0.0, audio_noise=0.0)
WHOLE = dict(area_min=1.0, aspect_min=1.0, aspect_max=1.0)


def picture(frame_HW3):
    frame = av.VideoFrame.from_ndarray(frame_HW3, format="rgb24")
    frame.time_base = Fraction(1, 10)
    return frame


def change(frame_HW3, seed=0, **options):
    """One frame after the filters of a view."""
    view = RandomView(AugmentConfig(**{**STILL, **WHOLE, **options}), np.random.default_rng(seed))
    return seen(view, picture(frame_HW3))


def seen(view, *frames, size=32):
    """The last of several frames that a view sees."""
    out_TSS3 = np.empty((len(frames), size, size, 3), np.uint8)
    writer = RgbFrames(view, out_TSS3)
    for number, frame in enumerate(frames):
        writer.write(frame, number, number + 1)
    writer.finish()
    return out_TSS3[-1]


def test_crops_have_the_area_and_aspect_asked_for():
    boxes = [RandomView(AugmentConfig(), np.random.default_rng(seed)).box(240, 320) for seed in range(2000)]
    area = np.array([b.height * b.width for b in boxes]) / (240 * 320)
    aspect = np.array([b.width / b.height for b in boxes if b.height > 40])
    assert 0.075 <= area.min() < 0.12
    assert 0.85 < area.max() <= 1.0
    assert 0.48 <= aspect.min() < 0.6
    assert 1.8 < aspect.max() <= 2.1
    assert all(0 <= b.top <= 240 - b.height and 0 <= b.left <= 320 - b.width for b in boxes)
    assert CentreView().box(90, 160) == Box(0, 35, 90, 90)


def test_nothing_asked_for_changes_nothing():
    frame = np.random.default_rng(0).integers(0, 255, (32, 32, 3)).astype(np.uint8)
    np.testing.assert_array_equal(change(frame), frame)


def smooth(red=120, green=90, blue=150):
    """A picture that chroma at half the resolution does not blur."""
    ramp = np.linspace(-30, 30, 32)[:, None, None] * np.ones((1, 32, 1))
    return (ramp + np.array([red, green, blue])).astype(np.uint8)


@pytest.mark.parametrize(
    ("field", "value", "check"),
    [
        ("brightness", 0.2, lambda old, new: np.ptp((new @ GREY - old @ GREY)[4:-4, 4:-4]) <= 4),
        ("contrast", 0.4, lambda old, new: abs((new @ GREY).mean() - (old @ GREY).mean()) < 3),
        ("saturation", 0.4, lambda old, new: np.abs(new @ GREY - old @ GREY).max() < 4),
        ("hue", 0.1, lambda old, new: np.abs(new @ GREY - old @ GREY).max() < 4),
    ],
)
def test_each_colour_change_keeps_what_it_should(field, value, check):
    old = smooth()
    changed = [change(old, seed, **{field: value}) for seed in range(8)]
    assert all(check(old, new) for new in changed)
    assert max(np.abs(new.astype(int) - old).mean() for new in changed) > 6


GREY = np.array([0.299, 0.587, 0.114])


def test_hue_leaves_grey_alone_and_turns_red():
    for seed in range(5):
        assert np.abs(change(np.full((32, 32, 3), 128, np.uint8), seed, hue=0.2).astype(int) - 128).max() <= 3
    turned = [change(smooth(150, 40, 40), seed, hue=0.2)[16, 16] for seed in range(20)]
    assert max(int(pixel[1]) for pixel in turned) > 80
    assert max(int(pixel[2]) for pixel in turned) > 80


def test_colours_stay_where_they_are_in_all():
    """Brightness, contrast, saturation and hue as the paper draws them: means follow the draw."""
    view = RandomView(AugmentConfig(**WHOLE), np.random.default_rng(1))
    new = seen(view, picture(smooth(120, 120, 120)))
    assert abs(new.mean() - (120 + 255 * view.brightness)) < 4


def test_a_clip_is_treated_as_one_and_a_flip_turns_it():
    frame = smooth().transpose(1, 0, 2).copy()
    found = set()
    for seed in range(20):
        view = RandomView(AugmentConfig(**{**STILL, **WHOLE, "flip": True}), np.random.default_rng(seed))
        pictures = {seen(view, *[picture(frame)] * count).tobytes() for count in (1, 2, 3)}
        assert len(pictures) == 1
        found |= pictures
    assert found == {frame.tobytes(), frame[:, ::-1].tobytes()}


def test_noise_is_in_proportion_to_the_peak():
    quiet = 0.1 * np.sin(np.arange(48000) / 10).astype(np.float32)
    noisy = augment_audio(quiet, AugmentConfig(audio_noise=0.01), np.random.default_rng(0))
    assert np.std(noisy - quiet) == pytest.approx(0.001, rel=0.05)
    assert noisy.dtype == np.float32
    silence = np.zeros(10, np.float32)
    assert augment_audio(silence, AugmentConfig(), np.random.default_rng(0)) is silence


@pytest.mark.parametrize(
    "bad", [{"weights": [1.0]}, {"sources": ["a"], "weights": [0.0]}, {"max_bad_share": 2.0}, {"workers": -1}]
)
def test_bad_settings(bad):
    with pytest.raises(ValueError, match=next(iter(set(bad) - {"sources"}))):
        DataConfig(**bad)
