"""From a clip of a data set to the tensors of one sample.

Shapes: T frames, S side, L samples, C candidate sentences, W words.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from vatt.clip import InputConfig
from vatt.data.augment import CentreView, RandomView, augment_audio
from vatt.data.captions import choose_candidates
from vatt.data.config import DataConfig
from vatt.data.decode import Window, decode_window
from vatt.data.manifest import Clip
from vatt.data.tokenizer import Tokenizer

Sample = dict[str, Tensor]


def training_sample(
    clip: Clip, tokenizer: Tokenizer, spec: InputConfig, config: DataConfig, rng: np.random.Generator
) -> Sample:
    """A random window of the clip, augmented: video (T, S, S, 3) uint8, audio (L,), text (C, W), masks ().

    Raises:
        MediaError: the clip cannot be decoded.
    """
    augment = config.augment
    place = rng.random()
    window = decode_window(
        clip.video,
        lambda duration: window_start(clip, duration, spec.seconds, place),
        RandomView(augment, rng) if augment.enabled else CentreView(),
        spec,
        config.decode_timeout,
    )
    audio = window.audio_L
    if augment.enabled and audio is not None:
        audio = augment_audio(audio, augment, rng)
    sentences = choose_candidates(clip.captions, window.start, window.start + spec.seconds, spec.candidates, rng)
    return _sample(window.frames_TSS3, audio, sentences, spec.candidates, tokenizer, spec)


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
    for number in range(windows):
        place = (number + 0.5) / windows if windows == 1 else number / (windows - 1)
        decoded: Window = decode_window(
            clip.video, _starts_at(clip, spec, place), CentreView(), spec, config.decode_timeout
        )
        samples.append(_sample(decoded.frames_TSS3, decoded.audio_L, [query], 1, tokenizer, spec))
    return samples, query


def _starts_at(clip: Clip, spec: InputConfig, place: float) -> Callable[[float], float]:
    return lambda duration: window_start(clip, duration, spec.seconds, place)


def window_start(clip: Clip, duration: float, seconds: float, place: float) -> float:
    """Where the window begins, for ``place`` from 0 (as early as may be) to 1 (as late as may be).

    It lies within the range of the clip where that is long enough, else it covers the range; always within the video.
    """
    last = max(0.0, duration - seconds)
    begin = clip.start or 0.0
    end = min(clip.end, duration) if clip.end is not None and duration else clip.end or duration
    low, high = sorted((begin, end - seconds))
    return min(max(low + place * (high - low), 0.0), last)


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
    audio = np.zeros(spec.samples, np.float32) if audio_L is None else audio_L
    return {
        "video": torch.from_numpy(frames_TSS3),
        "audio": torch.from_numpy(audio),
        "text": torch.from_numpy(text_CW),
        "audio_mask": torch.tensor(float(audio_L is not None)),
        "text_mask": torch.tensor(float((text_CW != 0).any())),
    }
