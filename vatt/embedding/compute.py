"""Batches of clips and of sentences through a model: windows averaged, then normalised.

Shapes: B items of a batch, V windows of an item, W words, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vatt.data.config import DataConfig
from vatt.data.labelled import Views, view_batches
from vatt.data.manifest import Clip
from vatt.data.text import TextError
from vatt.embedding.spaces import FEATURES, output_name, width_of
from vatt.models.vatt import VATT

Record = dict[str, Any]  # {"file", "field", "reason", "index"}


@dataclass(frozen=True)
class Embedded:
    """A batch: the numbers of its items, their embeddings float32 (B, D) on the CPU, and records of those left out."""

    numbers: list[int]
    x_BD: Tensor
    skipped: list[Record] = field(default_factory=list)


def embed_clips(
    model: VATT,
    clips: Sequence[Clip],
    modality: Literal["video", "audio"],
    *,
    space: str | None = None,
    windows: int = 4,
    numbers: Sequence[int] | None = None,
    config: DataConfig | None = None,
    batch_size: int = 8,
) -> Iterator[Embedded]:
    """Embeds clips in order, read as the evaluation reads them: ``windows`` of a clip, evenly spread, centre crop.

    Args:
        space: see `vatt.embedding.spaces`; "features" are averaged over the windows and not normalised.
        numbers: which of the clips; None for all.
        config: of the reading processes; None for two.
        batch_size: clips of a batch, each with all of its windows.

    Raises:
        SpaceError: no such space. ValueError: no window, or a model that reads spectrograms.
    """
    output_name(model.config, modality, space)
    check_audio(model, modality)
    views = Views(windows, 1)
    numbers = range(len(clips)) if numbers is None else numbers
    config = DataConfig() if config is None else config
    batches = view_batches(clips, numbers, views, modality, model.config.input, config, batch_size=batch_size)
    for batch in batches:
        skipped, found = list(batch["skipped"]), batch["index"].tolist()
        if not found:
            yield Embedded([], torch.empty(0, width_of(model.config, modality, space)), skipped)
            continue
        x_BD = embed_windows(model, modality, batch["x"], space, windows)
        good = torch.isfinite(x_BD).all(1)
        for number, fine in zip(found, good.tolist(), strict=True):
            if not fine:
                reason = "the model gives values that are not finite"
                skipped.append(
                    {"file": str(clips[number].video), "field": "embedding", "reason": reason, "index": number}
                )
        yield Embedded([n for n, fine in zip(found, good.tolist(), strict=True) if fine], x_BD[good], skipped)


def embed_windows(model: VATT, modality: str, x: Tensor, space: str | None = None, windows: int = 1) -> Tensor:
    """(B * V, ...) inputs of `VATT.forward`, the windows of an item in a row -> (B, D) float32 on the CPU.

    Raises:
        SpaceError: no such space.
    """
    name = output_name(model.config, modality, space)
    with evaluating(model):
        out = model(**{modality: x.to(next(model.parameters()).device)})[name].float().cpu()
    mean_BD = out.unflatten(0, (-1, windows)).mean(1)
    return mean_BD if space == FEATURES else F.normalize(mean_BD, dim=-1)


def embed_sentences(
    model: VATT, sentences: Sequence[str], *, space: str | None = None, numbers: Sequence[int] | None = None
) -> Embedded:
    """Embeds sentences, at most ``config.input.words`` words of each; one without any word is left out.

    Raises:
        SpaceError: no such space. TextError: the model has no tokenizer.
    """
    if model.tokenizer is None:
        raise TextError(
            "the model came without tokenizer.json, so its words are not known; "
            "name them: VATT.from_pretrained(DIR, vocabulary=FILE)"
        )
    numbers = list(range(len(sentences)) if numbers is None else numbers)
    ids_BW = torch.from_numpy(model.tokenizer.encode(list(sentences), model.config.input.words))
    has_word = (ids_BW != 0).any(1)
    skipped = [
        {"file": "", "field": "text", "reason": f"{sentence!r} holds no word", "index": number}
        for number, sentence, has in zip(numbers, sentences, has_word.tolist(), strict=True)
        if not has
    ]
    if not has_word.any():
        return Embedded([], torch.empty(0, width_of(model.config, "text", space)), skipped)
    x_BD = embed_windows(model, "text", ids_BW[has_word], space)
    return Embedded([n for n, has in zip(numbers, has_word.tolist(), strict=True) if has], x_BD, skipped)


def check_audio(model: VATT, modality: str) -> None:
    """Raises ValueError: sound for a model that reads spectrograms."""
    if modality == "audio" and model.config.audio_input != "waveform":
        raise ValueError(f"audio: {model.config.name} reads spectrograms; pass them to model(audio=...)")


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; puts the mode of every module back, also after an error."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True
