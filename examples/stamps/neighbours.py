"""What is found without learning: nearest neighbours on colours, on changes from frame to frame, and on log spectra.

Across modalities a neighbour is a detour over the training clips: those that sound most alike, or whose sentences share
most words, tell which colours (and, for sentences, which movements) to look for. The same measures judge the models.

Shapes: N clips, Q queries, V videos, D features.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import comb
from pathlib import Path

import av
import numpy as np

from vatt.data import Clip

NEAREST = 8  # training clips that are asked: as many as there are of a stamp with a sound
_EVERY, _GRID, _COLOURS, _BANDS, _WINDOW = 4, 8, 6, 64, 2048  # frames; cells; steps of a colour; bands; samples


@dataclass
class Features:
    """Each row has length 1; of a clip without sound, the spectrum is 0.

    Attributes:
        colours_ND: the root of the share of each of 6 x 6 x 6 colours.
        changes_ND: how much each of 8 x 8 cells changes from each fourth frame to the next.
        spectra_ND: the logarithm of the mean power in 64 bands, less its mean, so that loudness does not count.
    """

    colours_ND: np.ndarray
    changes_ND: np.ndarray
    spectra_ND: np.ndarray


def features(clips: Sequence[Clip], kept: Path) -> Features:
    """The features of the clips, from the file ``kept`` where an earlier call has left them."""
    if kept.is_file():
        with np.load(kept) as found:
            if list(found["videos"]) == [str(clip.video) for clip in clips]:
                return Features(found["colours"], found["changes"], found["spectra"])
    rows = [(*pictures_of(clip.video), spectrum_of(clip.video)) for clip in clips]
    made = Features(*(_unit(np.stack(column)) for column in zip(*rows, strict=True)))
    np.savez(
        kept,
        videos=[str(clip.video) for clip in clips],
        colours=made.colours_ND,
        changes=made.changes_ND,
        spectra=made.spectra_ND,
    )
    return made


def pictures_of(video: Path) -> tuple[np.ndarray, np.ndarray]:
    """Colours and changes of a video, before they are scaled to length 1."""
    with av.open(str(video)) as container:
        frames = [frame for number, frame in enumerate(container.decode(video=0)) if number % _EVERY == 0]
        small = [frame.reformat(32, 32, format="rgb24", interpolation="AREA").to_ndarray() for frame in frames]
    pictures_T3232 = np.stack(small).astype(np.int64)
    codes = (pictures_T3232 * _COLOURS // 256) @ np.array([_COLOURS**2, _COLOURS, 1])
    colours = np.sqrt(np.bincount(codes.ravel(), minlength=_COLOURS**3) / codes.size)
    cell = 32 // _GRID
    grey = pictures_T3232.mean(3).reshape(len(small), _GRID, cell, _GRID, cell).mean((2, 4))
    return colours, np.abs(np.diff(grey, axis=0)).ravel()


def spectrum_of(video: Path) -> np.ndarray:
    """The log spectrum of a video's sound, before it is scaled to length 1; 0 without sound."""
    with av.open(str(video)) as container:
        if not container.streams.audio:
            return np.zeros(_BANDS)
        rate = container.streams.audio[0].rate
        sound = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    windows = sound[: len(sound) // _WINDOW * _WINDOW].reshape(-1, _WINDOW) * np.hanning(_WINDOW)
    power = (np.abs(np.fft.rfft(windows)) ** 2).mean(0)
    edges = np.searchsorted(np.fft.rfftfreq(_WINDOW, 1 / rate), np.geomspace(60, 16_000, _BANDS + 1))
    bands = np.array([power[low : max(low + 1, high)].mean() for low, high in pairwise(edges)])
    level = np.log(bands + 1e-9 * bands.max() + 1e-12)
    return level - level.mean()


def by_sound(sounds_QD: np.ndarray, train: Features, colours_VD: np.ndarray) -> np.ndarray:
    """(Q, V): how alike each video's colours are to those of the training clips that sound most like the query."""
    return _mean_of_nearest(sounds_QD @ train.spectra_ND.T, train.colours_ND) @ colours_VD.T


def by_words(sentences: Sequence[str], known: Sequence[str], train: Features, videos: Features) -> np.ndarray:
    """(Q, V): how alike each video's colours and changes are to those of the training clips with the same words."""
    shared_QN = shared_words(sentences, known)
    return sum(
        _unit(_mean_of_nearest(shared_QN, ours)) @ theirs.T
        for ours, theirs in ((train.colours_ND, videos.colours_ND), (train.changes_ND, videos.changes_ND))
    )


def shared_words(sentences: Sequence[str], known: Sequence[str]) -> np.ndarray:
    """(Q, N): the cosine of sentences as bags of words, rare words weighing more (tf-idf)."""
    bags = [[set(text.lower().strip(".").split()) for text in texts] for texts in (sentences, known)]
    count = Counter(word for bag in bags[1] for word in bag)
    numbers = {word: number for number, word in enumerate(count)}
    tables = [np.zeros((len(side), len(numbers))) for side in bags]
    for table, side in zip(tables, bags, strict=True):
        for row, bag in zip(table, side, strict=True):
            for word in bag & numbers.keys():
                row[numbers[word]] = math.log(len(known) / count[word]) + 0.01
    return _unit(tables[0]) @ _unit(tables[1]).T


def _mean_of_nearest(similar_QN: np.ndarray, x_ND: np.ndarray) -> np.ndarray:
    nearest = np.argsort(-similar_QN, axis=1, kind="stable")[:, :NEAREST]
    return x_ND[nearest].mean(1)


def vote(x_QD: np.ndarray, train_ND: np.ndarray, labels: Sequence[str], nearest: int = 5) -> list[str]:
    """The most frequent label among the nearest training clips, the nearer one where two are as frequent."""
    order = np.argsort(-(x_QD @ train_ND.T), axis=1, kind="stable")[:, :nearest]
    return [Counter(labels[number] for number in row).most_common(1)[0][0] for row in order]


def recall(similar_QV: np.ndarray, right_QV: np.ndarray, k: int = 5) -> float:
    """The share of queries with a right video among the first ``k``. Wrong ones that are as similar come first."""
    best_Q1 = np.where(right_QV, similar_QV, -np.inf).max(1, keepdims=True)
    return float((((similar_QV >= best_Q1) & ~right_QV).sum(1) < k).mean())


def chance(right_QV: np.ndarray, k: int = 5) -> float:
    """The same of a random order."""
    videos = right_QV.shape[1]
    k = min(k, videos)
    missed = [comb(videos - right, k) / comb(videos, k) for right in right_QV.sum(1).tolist()]
    return 1 - float(np.mean(missed))


def _unit(x_ND: np.ndarray) -> np.ndarray:
    return x_ND / np.maximum(np.linalg.norm(x_ND, axis=1, keepdims=True), 1e-12)
