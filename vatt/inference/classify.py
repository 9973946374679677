"""Single files through a classifier. `vatt.evaluation.classification` scores whole data sets."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from vatt.data.clips import Clip
from vatt.data.config import DataConfig
from vatt.data.decode import MediaError
from vatt.data.samples import Views
from vatt.evaluation.classification import score_clips
from vatt.inference.embed import File, clip_of
from vatt.models.classifier import Classifier

Ranking = list[tuple[str, float]]
_PICTURE = Views(1, 1)


def classify_files(
    model: Classifier,
    items: File | Sequence[File],
    *,
    top: int = 5,
    views: Views | None = None,
    batch_size: int = 4,
    workers: int = 0,
) -> Ranking | list[Ranking]:
    """The most probable classes of a file, or of each file of a list; see `Classifier.classify`.

    Raises:
        MediaError: a file cannot be decoded. ScoreError: a logit is not finite.
        ValueError: ``top`` is below 1, or a model that `Classifier.from_config` did not make.
    """
    if top < 1:
        raise ValueError(f"top: must be 1 or more, got {top}")
    if model.config is None:
        raise ValueError("model: has no configuration; make it with Classifier.from_config")
    single = isinstance(items, File)
    clips = [clip_of(items)] if isinstance(items, File) else [clip_of(item) for item in items]
    names = model.config.classes or [str(number) for number in range(model.config.num_classes)]
    logits = torch.empty(len(clips), model.config.num_classes)
    default = Views(4, 3 if model.config.modality == "video" else 1)  # the paper's
    for pictures in (False, True):
        numbers = [number for number, clip in enumerate(clips) if (clip.kind == "image") == pictures]
        if numbers:
            chosen = views or (_PICTURE if pictures else default)
            logits[numbers] = _logits(model, clips, numbers, chosen, batch_size, workers)
    best = model.probabilities(logits).topk(min(top, len(names)))
    found = [
        [(names[index], value) for index, value in zip(indices, values, strict=True)]
        for indices, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]
    return found[0] if single else found


def _logits(
    model: Classifier, clips: Sequence[Clip], numbers: list[int], views: Views, batch_size: int, workers: int
) -> torch.Tensor:
    device = next(model.parameters()).device
    config = DataConfig(workers=workers)
    scores = score_clips(model, clips, views, config, device=device, batch_size=batch_size, numbers=numbers)
    if scores.skipped:
        first = scores.skipped[0]
        raise MediaError(first["file"], first["field"], first["reason"])
    return scores.logits_NK
