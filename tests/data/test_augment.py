"""Crops, colours and noise: their ranges, and that a clip is treated as one."""

from __future__ import annotations

import numpy as np
import pytest

from vatt.data.augment import augment_audio, augment_frames, centre_box, random_box
from vatt.data.config import AugmentConfig, DataConfig

STILL = dict(flip=False, brightness=0.0, saturation=0.0, contrast=0.0, hue=0.0, audio_noise=0.0)


def test_crops_have_the_area_and_aspect_asked_for():
    rng = np.random.default_rng(0)
    boxes = [random_box(240, 320, AugmentConfig(), rng) for _ in range(2000)]
    area = np.array([b.height * b.width for b in boxes]) / (240 * 320)
    aspect = np.array([b.width / b.height for b in boxes if b.height > 40])
    assert area.min() >= 0.075
    assert area.max() <= 1.0
    assert area.min() < 0.12
    assert area.max() > 0.85
    assert 0.48 <= aspect.min() < 0.6
    assert 1.8 < aspect.max() <= 2.1
    assert all(0 <= b.top <= 240 - b.height and 0 <= b.left <= 320 - b.width for b in boxes)
    assert (centre_box(90, 160).top, centre_box(90, 160).left, centre_box(90, 160).width) == (0, 35, 90)


def test_nothing_asked_for_changes_nothing():
    frames = np.random.default_rng(0).integers(0, 255, (3, 8, 8, 3)).astype(np.uint8)
    np.testing.assert_array_equal(augment_frames(frames, AugmentConfig(**STILL), np.random.default_rng(0)), frames)


@pytest.mark.parametrize(
    ("field", "value", "check"),
    [
        ("brightness", 0.2, lambda old, new: np.ptp((new.astype(int) - old).reshape(-1)) <= 1),
        ("contrast", 0.4, lambda old, new: abs(new.mean() - old.mean()) < 2),
        ("saturation", 0.4, lambda old, new: np.abs((new @ GREY) - (old @ GREY)).max() < 2),
        ("hue", 0.2, lambda old, new: np.abs((new @ GREY) - (old @ GREY)).max() < 2.5),
    ],
)
def test_each_colour_change_keeps_what_it_should(field, value, check):
    frames = np.random.default_rng(0).integers(90, 160, (2, 16, 16, 3)).astype(np.uint8)
    config = AugmentConfig(**{**STILL, field: value})
    changed = [augment_frames(frames, config, np.random.default_rng(seed)) for seed in range(8)]
    assert all(check(frames, new) for new in changed)
    assert max(np.abs(new.astype(int) - frames).max() for new in changed) > 3


GREY = np.array([0.299, 0.587, 0.114])


def test_hue_leaves_grey_alone_and_turns_red():
    grey = np.full((1, 4, 4, 3), 128, np.uint8)
    red = np.zeros((1, 4, 4, 3), np.uint8)
    red[..., 0] = 150
    config = AugmentConfig(**{**STILL, "hue": 0.2})
    for seed in range(5):
        assert np.abs(augment_frames(grey, config, np.random.default_rng(seed)).astype(int) - 128).max() <= 1
    turned = [augment_frames(red, config, np.random.default_rng(seed))[0, 0, 0] for seed in range(20)]
    assert max(int(pixel[1]) for pixel in turned) > 40
    assert max(int(pixel[2]) for pixel in turned) > 40


def test_flip_turns_the_whole_clip():
    frames = np.random.default_rng(0).integers(0, 255, (3, 8, 8, 3)).astype(np.uint8)
    config = AugmentConfig(**{**STILL, "flip": True})
    seen = {augment_frames(frames, config, np.random.default_rng(seed)).tobytes() for seed in range(20)}
    assert seen == {frames.tobytes(), frames[:, :, ::-1].tobytes()}


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
