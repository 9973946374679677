"""From a clip of a data set to the tensors of one sample: its window, its views, its sound and its sentences.

A reader is called with (clip, rng) and returns a sample, a dict of tensors; `layout` says their shapes and types. With
``out``, a dict of tensors of that layout, it writes them there (what is large is decoded straight into it) and returns
``out``; after an error, its content is undefined.

Shapes: T frames, S side, L samples, C candidate sentences, W words, V views, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
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
Layout = dict[str, tuple[tuple[int, ...], torch.dtype]]  # shape and type of each tensor of a sample
Modality = Literal["video", "audio"]
_ROUNDED = 1e-6  # of an interval: what a time that is meant to lie on the grid may lie beside it


@dataclass(frozen=True)
class PretrainReader:
    """Reads a window of a clip for pretraining: called with (clip, rng), returns a sample, augmented."""

    tokenizer: Tokenizer
    spec: InputConfig
    config: DataConfig

    def layout(self) -> Layout:
        """Of the tensors of a sample."""
        spec = self.spec
        return {
            "video": ((spec.frames, spec.size, spec.size, 3), torch.uint8),
            "audio": ((spec.samples,), torch.float32),
            "text": ((spec.candidates, spec.words), torch.int64),
            "audio_mask": ((), torch.float32),
            "text_mask": ((), torch.float32),
        }

    def __call__(self, clip: Clip, rng: np.random.Generator, out: Sample | None = None) -> Sample:
        """video (T, S, S, 3) uint8, audio (L,), text (C, W), and the masks audio_mask and text_mask ().

        Raises:
            MediaError: the clip cannot be decoded.
        """
        augment, spec = self.config.augment, self.spec
        out = _empty(self.layout()) if out is None else out
        video_TSS3, audio_L = out["video"].numpy(), out["audio"].numpy()
        start = _starts_at(clip, spec, rng.random())
        view = RandomView(augment, rng) if augment.enabled else CentreView()
        window = decode_window(clip.media, start, view, spec, self.config.decode_timeout, video_TSS3, audio_L)
        if augment.enabled and window.audio_L is not None:
            augment_audio(audio_L, augment, rng, audio_L)
        sentences = choose_candidates(clip.captions, window.start, window.start + spec.seconds, spec.candidates, rng)
        return _complete(out, window.audio_L is not None, sentences, self.tokenizer)

    def windows(
        self, clip: Clip, rngs: Sequence[np.random.Generator], outs: Sequence[Sample | None] | None = None
    ) -> list[Sample]:
        """Several windows of one clip, each as its ``rng`` draws it: the samples that one call each would give.

        Raises:
            MediaError: the clip cannot be decoded.
        """
        given = outs if outs is not None else [None] * len(rngs)
        return [self(clip, rng, out) for rng, out in zip(rngs, given, strict=True)]


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
        sample = _empty(PretrainReader(tokenizer, replace(spec, candidates=1), config).layout())
        outs = sample["video"].numpy(), sample["audio"].numpy()
        window = decode_window(clip.media, start, CentreView(), spec, config.decode_timeout, *outs)
        samples.append(_complete(sample, window.audio_L is not None, [query], tokenizer))
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

    def layout(self) -> Layout:
        """Of the tensors of a sample."""
        spec = self.spec
        video = ((spec.frames, spec.size, spec.size, 3), torch.uint8)
        x = video if self.modality == "video" else ((spec.samples,), torch.float32)
        return {"x": x, "target": ((len(self.classes.names),), torch.float32)}

    def __call__(self, clip: Clip, rng: np.random.Generator, out: Sample | None = None) -> Sample:
        """Raises MediaError: the clip cannot be decoded. LabelError: its label cannot be used."""
        augment, position = self.config.augment, rng.random()
        out = _empty(self.layout()) if out is None else out
        view = RandomView(augment, rng) if augment.enabled else CentreView()
        x = out["x"].numpy()
        _views_of(clip, self.modality, self.spec, self.config.decode_timeout, position, [view], [x])
        if self.modality == "audio" and augment.enabled:
            augment_audio(x, augment, rng, x)
        out["target"].copy_(self.classes.target(clip))
        return out

    def windows(
        self, clip: Clip, rngs: Sequence[np.random.Generator], outs: Sequence[Sample | None] | None = None
    ) -> list[Sample]:
        """Several windows of one clip, each as its ``rng`` draws it: the samples that one call each would give.

        Raises:
            MediaError: the clip cannot be decoded. LabelError: its label cannot be used.
        """
        given = outs if outs is not None else [None] * len(rngs)
        return [self(clip, rng, out) for rng, out in zip(rngs, given, strict=True)]


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
    clip: Clip,
    modality: Modality,
    spec: InputConfig,
    timeout: float,
    position: float,
    views: Sequence[View],
    outs: Sequence[np.ndarray | None] | None = None,
) -> list[np.ndarray]:
    """One window of a clip, as each view sees it; of sound there is one. In ``outs`` where these are given."""
    start = _starts_at(clip, spec, position)
    if modality == "audio":
        if clip.kind == "image":
            raise MediaError(clip.video, "audio", "is a picture, which has no sound")
        return [decode_sound(clip.media, start, spec, timeout, outs[0] if outs else None)[0]]
    if clip.kind == "image":
        given = outs if outs is not None else [None] * len(views)
        return [decode_picture(clip.media, view, spec, out) for view, out in zip(views, given, strict=True)]
    if clip.kind == "audio":
        raise MediaError(clip.video, "video", "is a sound file, which has no picture")
    return decode_views(clip.media, start, views, spec, timeout, outs)


def _spread(count: int) -> list[float]:
    """``count`` positions from 0 to 1, evenly; one lies in the middle."""
    return [0.5] if count == 1 else [number / (count - 1) for number in range(count)]


def _starts_at(clip: Clip, spec: InputConfig, position: float) -> ChooseStart:
    return lambda duration: window_start(clip, duration, spec, position)


def window_start(clip: Clip, duration: float, spec: InputConfig, position: float) -> float:
    """Where the window begins, for ``position`` from 0 (as early as possible) to 1 (as late as possible), in seconds.

    It lies within the range of the clip where that is long enough, else it covers the range; always within the video.
    It is a multiple of 1 / ``spec.fps``, so that a file shows the same frames as its packed copy, whose frames lie on
    this grid. Where none lies between the earliest and the latest start, the window leaves the range, or the video, by
    less than half an interval.
    """
    last = max(0.0, duration - spec.seconds)
    begin = clip.start or 0.0
    end = min(clip.end, duration) if clip.end is not None and duration else clip.end or duration
    low, high = (min(max(time, 0.0), last) for time in sorted((begin, end - spec.seconds)))
    first, final = math.ceil(low * spec.fps - _ROUNDED), math.floor(high * spec.fps + _ROUNDED)
    interval = round((low + position * (high - low)) * spec.fps)
    return (min(max(interval, first), final) if first <= final else interval) / spec.fps


def _empty(layout: Layout) -> Sample:
    return {name: torch.empty(shape, dtype=dtype) for name, (shape, dtype) in layout.items()}


def _complete(sample: Sample, has_sound: bool, sentences: list[str], tokenizer: Tokenizer) -> Sample:
    """The sample, with its sentences and masks, and silence where it has no sound."""
    text_CW = sample["text"].numpy()
    text_CW[:] = 0
    if sentences:
        text_CW[: len(sentences)] = tokenizer.encode(sentences, text_CW.shape[1])
    if not has_sound:
        sample["audio"].zero_()
    sample["audio_mask"].fill_(has_sound)
    sample["text_mask"].fill_(bool((text_CW != 0).any()))
    return sample
