"""Batches for evaluation: each clip once, in order, without augmentation.

``eval_batches`` reads all modalities for retrieval, ``view_batches`` several views of one modality for classification.
Clips that cannot be decoded are in ``skipped`` alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vatt.clip import InputConfig
from vatt.data.clips import Clip, check_packing
from vatt.data.config import DataConfig
from vatt.data.decode import MediaError
from vatt.data.loader import Batch, worker_options
from vatt.data.samples import Modality, Sample, Views, evaluation_windows
from vatt.data.skipped import Record, skipped_clip
from vatt.data.tokenizer import Tokenizer


class _WindowSet(Dataset):
    """Clips by number: their windows and query, or the record of why there are none."""

    def __init__(
        self, clips: Sequence[Clip], tokenizer: Tokenizer, spec: InputConfig, config: DataConfig, windows: int
    ) -> None:
        self.clips, self.tokenizer, self.spec, self.config, self.windows = clips, tokenizer, spec, config, windows

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> tuple[int, list[Sample], str] | Record:
        try:
            samples, query = evaluation_windows(self.clips[index], self.tokenizer, self.spec, self.config, self.windows)
            return index, samples, query
        except MediaError as error:
            return skipped_clip("evaluation", error)


def _collate_windows(clips: Sequence[Clip], items: list[tuple[int, list[Sample], str] | Record]) -> Batch:
    good = [item for item in items if isinstance(item, tuple)]
    batch: Batch = {"skipped": [item for item in items if isinstance(item, dict)]}
    batch["index"] = torch.tensor([index for index, _, _ in good], dtype=torch.int64)
    batch["captions"] = [query for _, _, query in good]
    batch["videos"] = [str(clips[index].video) for index, _, _ in good]
    batch["ranges"] = [(clips[index].start, clips[index].end) for index, _, _ in good]
    if good:
        windows = [sample for _, samples, _ in good for sample in samples]
        first = [samples[0] for _, samples, _ in good]
        batch |= {key: torch.stack([sample[key] for sample in windows]) for key in ("video", "audio")}
        batch |= {key: torch.stack([sample[key] for sample in first]) for key in ("text", "text_mask", "audio_mask")}
    return batch


def eval_batches(
    clips: Sequence[Clip],
    tokenizer: Tokenizer,
    spec: InputConfig,
    config: DataConfig,
    *,
    batch_size: int,
    windows: int = 1,
) -> Iterator[Batch]:
    """Windows of all modalities, and a query, of each clip.

    A batch holds video (B * windows, T, S, S, 3) and audio (B * windows, L), the windows of a clip in a row, text
    (B, 1, W) of the query, the masks (B,), index (B,), and lists of B: captions (the queries), videos (str) and ranges
    (start and end of the clip, seconds or None).
    """
    check_packing(clips, spec)
    yield from DataLoader(
        _WindowSet(clips, tokenizer, spec, config, windows),
        batch_size=batch_size,
        collate_fn=partial(_collate_windows, clips),
        generator=torch.Generator(),
        **worker_options(config, len(clips), ahead=1),
    )


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

    def __getitem__(self, index: int) -> tuple[int, Tensor] | Record:
        number = self.numbers[index]
        try:
            return number, self.views.read(self.clips[number], self.modality, self.spec, self.timeout)
        except MediaError as error:
            return {**skipped_clip("evaluation", error), "index": number}


def _collate_views(items: list[tuple[int, Tensor] | Record]) -> Batch:
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
    check_packing(clips, spec, sound_only=modality == "audio")
    yield from DataLoader(
        _ViewSet(clips, numbers, views, modality, spec, config.decode_timeout),
        batch_size=batch_size,
        collate_fn=_collate_views,
        generator=torch.Generator(),
        **worker_options(config, len(numbers), ahead=1),
    )
