"""Simple features tell the attributes apart, on held-out clips: seen, and heard.

Nearest-centroid classifiers, fitted on the training scenes. They run on drawn frames and sound before encoding, so that
a few hundred scenes are quick; the build tests hold what encoding leaves.
"""

from __future__ import annotations

import numpy as np
import pytest

from vatt.sample.draw import RGB, frames_TSS3
from vatt.sample.scene import motion_of, scenes
from vatt.sample.sound import waveform
from vatt.sample.writing import FPS, RATE, SECONDS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def dealt():
    return scenes(192, 96, seed=1)


def accuracy(dealt, features, attribute):
    """Share of the held-out scenes whose nearest class mean of the training scenes is their own class."""
    features = np.asarray(features, np.float64)
    labels = np.array([getattr(scene, attribute) for scene in dealt])
    train = np.array([scene.split == "train" for scene in dealt])
    features = (features - features[train].mean(0)) / (features[train].std(0) + 1e-6)
    classes = np.unique(labels)
    centroids = np.stack([features[train & (labels == name)].mean(0) for name in classes])
    nearest = np.linalg.norm(features[:, None] - centroids, axis=-1).argmin(1)
    return (classes[nearest] == labels)[~train].mean()


@pytest.fixture(scope="module")
def videos(dealt):
    return [frames_TSS3(scene, round(SECONDS * FPS), FPS, 48) for scene in dealt]


@pytest.fixture(scope="module")
def spectra(dealt):
    """Log power in 40 bands from 60 Hz to 12 kHz, equal steps in pitch, every 40 ms: (scenes, moments, bands)."""
    edges = np.geomspace(60, 12000, 41) * 0.04
    bands = np.searchsorted(edges, np.arange(961)) - 1
    found = []
    for scene in dealt:
        blocks = waveform(scene, SECONDS, RATE).reshape(-1, 1920)
        power = np.abs(np.fft.rfft(blocks * np.hanning(1920))) ** 2
        found.append(np.stack([power[:, bands == band].sum(1) for band in range(40)], 1))
    power = np.stack(found)
    return np.log(power / power.mean((1, 2), keepdims=True) + 1e-5)  # whatever the level: models may not hear it


@pytest.fixture(scope="module")
def masks(videos):
    """Where the thing is: pixels far from grey, or bright, which no background is."""
    spans = [(video.max(-1), video.min(-1)) for video in videos]
    return [(highest - lowest > 110) | (lowest > 195) for highest, lowest in spans]


def test_colour_is_what_the_words_say(dealt, videos, masks):
    """The pixel values of the thing lie nearest to the colour of its name, whatever the background."""
    names, table = list(RGB), np.array(list(RGB.values()))
    for scene, video, mask in zip(dealt, videos, masks, strict=True):
        inside = np.median(video[mask], axis=0)
        assert names[np.linalg.norm(inside - table, axis=1).argmin()] == scene.colour


def test_every_thing_moves_well_within_a_window(dealt):
    """Place, angle or size change a lot within any 2.8 s, less than the 3.2 s that a model reads."""
    time = np.arange(round(SECONDS * FPS)) / FPS
    window = round(2.8 * FPS)
    for scene in dealt:
        path = motion_of(scene).path(time)
        values = np.stack([path.x, path.y, path.angle, path.scale])
        for start in range(len(time) - window + 1):
            assert np.ptp(values[:, start : start + window], axis=1).max() > 0.55, scene


def test_motion_is_seen_in_the_path_of_the_thing(dealt, videos, masks):
    """Centre and area of the thing over time; 1/6 is chance."""
    features = []
    for video, mask in zip(videos, masks, strict=True):
        area = mask.sum((1, 2)) / mask[0].size
        y, x = (np.array([np.nonzero(frame)[axis].mean() for frame in mask]) / 48 for axis in (0, 1))
        beats = [np.abs(np.diff(np.sign(np.diff(part)))).sum() for part in (x, y)]
        turned = np.abs(np.diff(video.astype(int), axis=0)).mean()
        features.append([x.std(), y.std(), area.std() / area.mean(), np.corrcoef(x[4:], x[:-4])[0, 1], turned, *beats])
    assert accuracy(dealt, np.nan_to_num(features), "motion") > 0.95


@pytest.mark.parametrize("attribute", ["colour", "size"])
def test_colour_and_size_are_heard_in_what_is_steady(dealt, spectra, attribute):
    """The hum and the register, by the spectrum of the quiet moments; 1/8 and 1/2 are chance."""
    assert accuracy(dealt, np.quantile(spectra, 0.1, axis=1), attribute) > 0.95


def test_shape_is_heard_in_the_timbre(dealt, spectra):
    """The mean spectrum alone, with pitch and rhythm in the way; 1/6 is chance."""
    assert accuracy(dealt, spectra.mean(1), "shape") > 0.85


def test_motion_is_heard_in_rhythm_and_pitch(dealt, spectra):
    """How loudness and pitch change over time, with neither phase nor timbre; 1/6 is chance."""
    power = np.exp(spectra)
    loudness = np.log(power.sum(2))
    pitch = (power * np.arange(40)).sum(2) / power.sum(2)
    rhythm = [np.abs(np.fft.rfft(part - part.mean(1, keepdims=True)))[:, 1:40] for part in (loudness, pitch)]
    assert accuracy(dealt, np.log(np.concatenate(rhythm, 1) + 1), "motion") > 0.9


def test_size_is_seen(dealt, masks):
    areas = [[np.median(mask.sum((1, 2)))] for mask in masks]
    assert accuracy(dealt, areas, "size") > 0.9
