"""From a clip of a data set to the tensors of one sample: its window, its views, its sound and its sentences.

Shapes: T frames, S side, L samples, C candidate sentences, W words, V views, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from vatt.clip import InputConfig
from vatt.data.augment import CentreView, RandomView, SquareView, augment_audio
from vatt.data.captions import choose_candidates
from vatt.data.clips import Clip
from vatt.data.config import DataConfig
from vatt.data.decode import (
    ChooseStart,
    MediaError,
    View,
    decode_picture,
    decode_sound,
    decode_views,
    decode_window,
)
from vatt.data.labels import Classes
from vatt.data.tokenizer import Tokenizer

Sample = dict[str, Tensor]
Modality = Literal["video", "audio"]


@dataclass(frozen=True)
class PretrainReader:
    """Reads a window of a clip for pretraining: called with (clip, rng), returns a sample, augmented."""

    tokenizer: Tokenizer
    spec: InputConfig
    config: DataConfig

    def __call__(self, clip: Clip, rng: np.random.Generator) -> Sample:
        """video (T, S, S, 3) uint8, audio (L,), text (C, W), and the masks audio_mask and text_mask ().

        Raises:
            MediaError: the clip cannot be decoded.
        """
        augment, spec = self.config.augment, self.spec
        start = _starts_at(clip, spec, rng.random())
        view = RandomView(augment, rng) if augment.enabled else CentreView()
        window = decode_window(clip.video, start, view, spec, self.config.decode_timeout)
        audio_L = window.audio_L
        if augment.enabled and audio_L is not None:
            audio_L = augment_audio(audio_L, augment, rng)
        sentences = choose_candidates(clip.captions, window.start, window.start + spec.seconds, spec.candidates, rng)
        return _sample(window.frames_TSS3, audio_L, sentences, spec.candidates, self.tokenizer, spec)


def evaluation_windows(
    clip: Clip, tokenizer: Tokenizer, spec: InputConfig, config: DataConfig, windows: int
) -> tuple[list[Sample], str]:
    """``windows`` windows spread evenly over the clip, centre crop; and the query: the caption that overlaps the range
    of the clip most, or the first one of the video where there is no range or no time.

    Raises:
        MediaError: the clip cannot be decoded.
    """
    query = clip.captions[0].text if clip.captions else ""
    if query and clip.start is not None and clip.end is not None:
        query = choose_candidates(clip.captions, clip.start, clip.end, 1, None)[0]
    samples = []
    for position in _spread(windows):
        start = _starts_at(clip, spec, position)
        window = decode_window(clip.video, start, CentreView(), spec, config.decode_timeout)
        samples.append(_sample(window.frames_TSS3, window.audio_L, [query], 1, tokenizer, spec))
    return samples, query


@dataclass(frozen=True)
class LabelledReader:
    """Reads a window of a clip with a label for training: called with (clip, rng), returns "x" and "target".

    "x" is uint8 (T, S, S, 3), of a video or a picture, or float32 (L,) of its sound; "target" float32 (K,).
    """

    classes: Classes
    modality: Modality
    spec: InputConfig
    config: DataConfig

    def __call__(self, clip: Clip, rng: np.random.Generator) -> Sample:
        """Raises MediaError: the clip cannot be decoded. LabelError: its label cannot be used."""
        augment, position = self.config.augment, rng.random()
        view = RandomView(augment, rng) if augment.enabled else CentreView()
        (x,) = _views_of(clip, self.modality, self.spec, self.config.decode_timeout, position, [view])
        if self.modality == "audio" and augment.enabled:
            x = augment_audio(x, augment, rng)
        return {"x": torch.from_numpy(x), "target": self.classes.target(clip)}


@dataclass(frozen=True)
class Views:
    """What evaluation reads of a clip: ``clips`` windows, spread evenly over it, and ``crops`` squares of each.

    The paper has 4 clips x 3 crops for video. Three crops lie at the start, in the middle and at the end of the longer
    side; sound has no crops, and a picture one window.
    """

    clips: int = 4
    crops: int = 3

    def __post_init__(self) -> None:
        if self.clips < 1 or self.crops < 1:
            raise ValueError(f"clips and crops must be 1 or more, got {self.clips} and {self.crops}")

    def count(self, modality: Modality) -> int:
        """Views of a clip; sound has no crops."""
        return self.clips * (self.crops if modality == "video" else 1)

    def read(self, clip: Clip, modality: Modality, spec: InputConfig, timeout: float) -> Tensor:
        """(V, T, S, S, 3) uint8 or (V, L) float32, the crops of a window next to each other.

        Raises:
            MediaError: the clip cannot be decoded.
        """
        views: list[View] = [SquareView(position) for position in _spread(self.crops)]
        if modality == "audio":
            views = views[:1]
        times = _spread(self.clips)
        if clip.kind == "image":  # all windows of a picture are alike
            found = _views_of(clip, modality, spec, timeout, 0.5, views) * len(times)
        else:
            found = [x for time in times for x in _views_of(clip, modality, spec, timeout, time, views)]
        return torch.from_numpy(np.stack(found))


def _views_of(
    clip: Clip, modality: Modality, spec: InputConfig, timeout: float, position: float, views: Sequence[View]
) -> list[np.ndarray]:
    """One window of a clip, as each view sees it; of sound there is one."""
    start = _starts_at(clip, spec, position)
    if modality == "audio":
        if clip.kind == "image":
            raise MediaError(clip.video, "audio", "is a picture, which has no sound")
        return [decode_sound(clip.video, start, spec, timeout)[0]]
    if clip.kind == "image":
        return [decode_picture(clip.video, view, spec) for view in views]
    if clip.kind == "audio":
        raise MediaError(clip.video, "video", "is a sound file, which has no picture")
    return decode_views(clip.video, start, views, spec, timeout)


def _spread(count: int) -> list[float]:
    """``count`` positions from 0 to 1, evenly; one lies in the middle."""
    return [0.5] if count == 1 else [number / (count - 1) for number in range(count)]


def _starts_at(clip: Clip, spec: InputConfig, position: float) -> ChooseStart:
    return lambda duration: window_start(clip, duration, spec.seconds, position)


def window_start(clip: Clip, duration: float, seconds: float, position: float) -> float:
    """Where the window begins, for ``position`` from 0 (as early as possible) to 1 (as late as possible).

    It lies within the range of the clip where that is long enough, else it covers the range; always within the video.
    """
    last = max(0.0, duration - seconds)
    begin = clip.start or 0.0
    end = min(clip.end, duration) if clip.end is not None and duration else clip.end or duration
    low, high = sorted((begin, end - seconds))
    return min(max(low + position * (high - low), 0.0), last)


def _sample(
    frames_TSS3: np.ndarray,
    audio_L: np.ndarray | None,
    sentences: list[str],
    candidates: int,
    tokenizer: Tokenizer,
    spec: InputConfig,
) -> Sample:
    text_CW = np.zeros((candidates, spec.words), np.int64)
    if sentences:
        text_CW[: len(sentences)] = tokenizer.encode(sentences, spec.words)
    return {
        "video": torch.from_numpy(frames_TSS3),
        "audio": torch.from_numpy(np.zeros(spec.samples, np.float32) if audio_L is None else audio_L),
        "text": torch.from_numpy(text_CW),
        "audio_mask": torch.tensor(float(audio_L is not None)),
        "text_mask": torch.tensor(float((text_CW != 0).any())),
    }
