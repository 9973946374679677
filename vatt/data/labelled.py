"""Clips with labels: one augmented window for training, several plain views for evaluation.

Shapes: T frames, S side, L samples, V views, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vatt.clip import InputConfig
from vatt.data.augment import CentreView, RandomView, SquareView, augment_audio
from vatt.data.config import DataConfig
from vatt.data.decode import MediaError, View, decode_views
from vatt.data.decode_other import decode_picture, decode_sound
from vatt.data.labels import Classes
from vatt.data.loader import Batch, bad_clip, worker_options
from vatt.data.manifest import Clip
from vatt.data.samples import Sample, window_start

Modality = Literal["video", "audio"]


@dataclass(frozen=True)
class LabelledReader:
    """Reads a window of a clip for training: called with (clip, rng), returns "x" and "target".

    "x" is uint8 (T, S, S, 3), of a video or a picture, or float32 (L,) of its sound; "target" float32 (K,).
    """

    classes: Classes
    modality: Modality
    spec: InputConfig
    config: DataConfig

    def __call__(self, clip: Clip, rng: np.random.Generator) -> Sample:
        """Raises MediaError: the clip cannot be decoded. LabelError: its label cannot be used."""
        augment, place = self.config.augment, rng.random()
        view = RandomView(augment, rng) if augment.enabled else CentreView()
        (x,) = _read(clip, self.modality, self.spec, self.config.decode_timeout, place, [view])
        if self.modality == "audio" and augment.enabled:
            x = augment_audio(x, augment, rng)
        return {"x": torch.from_numpy(x), "target": self.classes.target(clip)}


@dataclass(frozen=True)
class Views:
    """How a clip is looked at in evaluation: ``clips`` windows spread evenly over it, ``crops`` squares of each.

    The paper has 4 clips x 3 crops for video. Three crops lie at the begin, in the middle and at the end of the longer
    side; sound has no crops, and a picture one window.
    """

    clips: int = 4
    crops: int = 3

    def __post_init__(self) -> None:
        if self.clips < 1 or self.crops < 1:
            raise ValueError(f"clips and crops must be 1 or more, got {self.clips} and {self.crops}")

    def count(self, modality: Modality) -> int:
        return self.clips * (self.crops if modality == "video" else 1)

    def read(self, clip: Clip, modality: Modality, spec: InputConfig, timeout: float) -> Tensor:
        """(V, T, S, S, 3) uint8 or (V, L) float32, the crops of a window next to each other.

        Raises:
            MediaError: the clip cannot be decoded.
        """
        views: list[View] = [SquareView(place) for place in _places(self.crops)]
        if modality == "audio":
            views = views[:1]
        times = _places(self.clips)
        if clip.kind == "image":  # all windows of a picture are alike
            found = _read(clip, modality, spec, timeout, 0.5, views) * len(times)
        else:
            found = [x for time in times for x in _read(clip, modality, spec, timeout, time, views)]
        return torch.from_numpy(np.stack(found))


def _places(count: int) -> list[float]:
    return [0.5] if count == 1 else [number / (count - 1) for number in range(count)]


def _read(
    clip: Clip, modality: Modality, spec: InputConfig, timeout: float, place: float, views: Sequence[View]
) -> list[np.ndarray]:
    """One window of a clip, as each view sees it; of sound there is one."""

    def start(duration: float) -> float:
        return window_start(clip, duration, spec.seconds, place)

    if modality == "audio":
        if clip.kind == "image":
            raise MediaError(clip.video, "audio", "is a picture, which has no sound")
        return [decode_sound(clip.video, start, spec, timeout)[0]]
    if clip.kind == "image":
        return [decode_picture(clip.video, view, spec) for view in views]
    if clip.kind == "audio":
        raise MediaError(clip.video, "video", "is a sound file, which has no picture")
    return decode_views(clip.video, start, views, spec, timeout)


class _ViewSet(Dataset):
    """Clips by number: their views, or the record of why there are none."""

    def __init__(
        self,
        clips: Sequence[Clip],
        numbers: Sequence[int],
        views: Views,
        modality: Modality,
        spec: InputConfig,
        timeout: float,
    ) -> None:
        self.clips, self.numbers, self.views = clips, numbers, views
        self.modality, self.spec, self.timeout = modality, spec, timeout

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> tuple[int, Tensor] | dict[str, Any]:
        number = self.numbers[index]
        try:
            return number, self.views.read(self.clips[number], self.modality, self.spec, self.timeout)
        except MediaError as error:
            return {**bad_clip("evaluation", error), "index": number}


def _collate(items: list[tuple[int, Tensor] | dict[str, Any]]) -> Batch:
    good = [item for item in items if isinstance(item, tuple)]
    batch: Batch = {"skipped": [item for item in items if isinstance(item, dict)]}
    batch["index"] = torch.tensor([number for number, _ in good], dtype=torch.int64)
    if good:
        batch["x"] = torch.cat([views for _, views in good])
    return batch


def view_batches(
    clips: Sequence[Clip],
    numbers: Sequence[int],
    views: Views,
    modality: Modality,
    spec: InputConfig,
    config: DataConfig,
    *,
    batch_size: int,
) -> Iterator[Batch]:
    """The clips with these ``numbers``, each once, in order; a rank of several passes its own share of the numbers.

    A batch holds index (B,) int64; x (B * V, ...), the views of a clip in a row (absent if B is 0); and skipped, a
    record {dataset, file, field, reason, index} of each clip that cannot be decoded.
    """
    chosen = _ViewSet(clips, numbers, views, modality, spec, config.decode_timeout)
    options = worker_options(config, len(numbers), ahead=1)
    made = DataLoader(
        chosen, batch_size=batch_size, collate_fn=partial(_collate), generator=torch.Generator(), **options
    )
    yield from made
