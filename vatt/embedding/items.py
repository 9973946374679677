"""One item or many, of files or tensors, to embeddings: what the methods of `VATT` do.

Shapes: B items, T frames, S side, L samples, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from vatt.data.adapters.media import KINDS
from vatt.data.config import DataConfig
from vatt.data.decode import MediaError
from vatt.data.manifest import Clip
from vatt.data.text import TextError
from vatt.embedding.compute import check_audio, embed_clips, embed_sentences, embed_windows
from vatt.embedding.spaces import output_name, width_of
from vatt.models.config import InputConfig
from vatt.models.vatt import VATT

File = str | Path | Clip
_LARGEST = 1.001  # of a value in [-1, 1], with room for rounding


def embed_media(
    model: VATT,
    items: Any,
    modality: Literal["video", "audio"],
    *,
    space: str | None = None,
    windows: int = 4,
    batch_size: int = 8,
    workers: int = 0,
    sample_rate: int | None = None,
) -> Tensor:
    """Embeddings of files or tensors; see `VATT.embed_video` and `VATT.embed_audio`.

    Returns:
        float32 (D,) of one item, (B, D) of a list or of a tensor with the dimension B.

    Raises:
        MediaError: a file cannot be decoded. SpaceError: no such space. TypeError: an item that is neither file nor
        tensor, or a mixed list. ValueError: a tensor of another shape, type or range, or another sample rate.
    """
    output_name(model.config, modality, space)
    check_audio(model, modality)
    if batch_size < 1:
        raise ValueError(f"batch_size: must be 1 or more, got {batch_size}")
    rate = model.config.input.sample_rate
    if sample_rate is not None and sample_rate != rate:
        raise ValueError(
            f"sample_rate: the model hears {rate} Hz, got {sample_rate}; resample the sound, or pass files"
        )
    if isinstance(items, File):
        return _files(model, [items], modality, space, windows, batch_size, workers)[0]
    if isinstance(items, Tensor | np.ndarray):
        x = torch.as_tensor(items)
        single = x.ndim == len(_shape(modality, model.config.input))
        found = _tensors(model, x[None] if single else x, modality, space, batch_size)
        return found[0] if single else found
    items = list(items)
    if all(isinstance(item, File) for item in items):
        return _files(model, items, modality, space, windows, batch_size, workers)
    if all(isinstance(item, Tensor | np.ndarray) for item in items):
        tensors = [torch.as_tensor(item) for item in items]
        for number, x in enumerate(tensors):
            check_input(x[None], modality, model.config.input, f"{modality}, item {number}")
        return _tensors(model, torch.stack(tensors), modality, space, batch_size)
    kinds = sorted({type(item).__name__ for item in items})
    raise TypeError(f"{modality}: expected paths, or tensors, not both; got a list of {', '.join(kinds)}")


def embed_text(
    model: VATT, sentences: str | Sequence[str], *, space: str | None = None, batch_size: int = 256
) -> Tensor:
    """Embeddings of sentences; see `VATT.embed_text`.

    Raises:
        SpaceError: no such space. TextError: no tokenizer, or a sentence without any word. TypeError: no text.
    """
    output_name(model.config, "text", space)
    if isinstance(sentences, str):
        return embed_text(model, [sentences], space=space)[0]
    sentences = list(sentences)
    for sentence in sentences:
        if not isinstance(sentence, str):
            raise TypeError(f"text: expected sentences, got {type(sentence).__name__}")
    parts = [torch.empty(0, width_of(model.config, "text", space))]
    for first in range(0, len(sentences), batch_size):
        found = embed_sentences(model, sentences[first : first + batch_size], space=space)
        if found.skipped:
            raise TextError(f"text, item {first + found.skipped[0]['index']}: {found.skipped[0]['reason']}")
        parts.append(found.x_BD)
    return torch.cat(parts)


def clip_of(item: File) -> Clip:
    """The clip of a file, whose kind is told by its ending."""
    if isinstance(item, Clip):
        return item
    path = Path(item)
    kind = next((kind for kind, endings in KINDS.items() if path.suffix.lower() in endings), "video")
    return Clip(path, kind=kind)


def check_input(x: Tensor, modality: str, spec: InputConfig, name: str) -> None:
    """Checks (B, T, S, S, 3) video, uint8 or float in [-1, 1], or (B, L) float sound in [-1, 1].

    Raises:
        ValueError: another shape, type or range; the message begins with ``name``.
    """
    shape = _shape(modality, spec)
    if tuple(x.shape[1:]) != shape:
        what = f"{spec.frames} frames at {spec.fps:g} a second" if modality == "video" else f"{spec.sample_rate} Hz"
        raise ValueError(
            f"{name}: expected {shape} ({what}), with or without a batch dimension, got {tuple(x.shape[1:])}; "
            "a file of any length may be passed by its path"
        )
    if modality == "video" and x.dtype == torch.uint8:
        return
    if not x.is_floating_point():
        kinds = "uint8, or floating point in [-1, 1]" if modality == "video" else "floating point in [-1, 1]"
        raise ValueError(f"{name}: expected {kinds}, got {x.dtype}")
    largest = float(x.abs().max()) if x.numel() else 0.0
    if not largest <= _LARGEST:  # also if it is not a number
        raise ValueError(f"{name}: values must lie in [-1, 1], the largest is {largest:g}")


def _shape(modality: str, spec: InputConfig) -> tuple[int, ...]:
    return (spec.frames, spec.size, spec.size, 3) if modality == "video" else (spec.samples,)


def _tensors(model: VATT, x: Tensor, modality: str, space: str | None, batch_size: int) -> Tensor:
    check_input(x, modality, model.config.input, modality)
    x = x if x.dtype == torch.uint8 else x.float()
    parts = [embed_windows(model, modality, part, space) for part in x.split(batch_size)] if len(x) else []
    found = torch.cat([torch.empty(0, width_of(model.config, modality, space)), *parts])
    _check_finite(found, [f"{modality}, item {number}" for number in range(len(x))])
    return found


def _files(
    model: VATT,
    items: Sequence[File],
    modality: Literal["video", "audio"],
    space: str | None,
    windows: int,
    batch_size: int,
    workers: int,
) -> Tensor:
    clips, parts = [clip_of(item) for item in items], [torch.empty(0, width_of(model.config, modality, space))]
    config = DataConfig(workers=workers)
    for found in embed_clips(
        model, clips, modality, space=space, windows=windows, config=config, batch_size=batch_size
    ):
        if found.skipped:
            first = found.skipped[0]
            raise MediaError(first["file"], first["field"], first["reason"])
        parts.append(found.x_BD)
    return torch.cat(parts)


def _check_finite(x_BD: Tensor, names: Sequence[str]) -> None:
    for name, row in zip(names, x_BD, strict=True):
        if not torch.isfinite(row).all():
            raise ValueError(f"{name}: the model gives values that are not finite")
