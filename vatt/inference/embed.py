"""From files, tensors and sentences to embeddings: batch by batch, and all at once as the methods of `VATT` do.

Shapes: B items, V windows of an item, T frames, S side, L samples, W words, D width.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import compress
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vatt.clip import SILENCE, InputConfig
from vatt.data.captions import whole_characters
from vatt.data.clips import Clip
from vatt.data.config import DataConfig
from vatt.data.decode import MediaError
from vatt.data.evaluation_loader import view_batches
from vatt.data.samples import Views
from vatt.data.skipped import Record
from vatt.data.tokenizer import TextError, Tokenizer
from vatt.evaluation import evaluating
from vatt.files import kind_of
from vatt.inference.spaces import FEATURES, output_name, width_of
from vatt.models.vatt import VATT

File = str | Path | Clip
_SHOWN = 5  # unknown words that are named
_log = logging.getLogger(__name__)
_NOT_FINITE = "the model gives values that are not finite"
_LARGEST = 1.001  # of a value in [-1, 1], with room for rounding


@dataclass(frozen=True)
class Embedded:
    """A batch: the numbers of its items, their embeddings float32 (B, D) on the CPU, and records of those left out; of
    sentences also the words that the model does not know, as they are written."""

    numbers: list[int]
    x_BD: Tensor
    skipped: list[Record] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


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

    A clip whose windows are all silent has no sound, and so no place in a common space: it is left out, with a record.

    Args:
        space: see `vatt.inference.spaces`; "features" are averaged over the windows and not normalised.
        numbers: which of the clips; None for all.
        config: of the reading processes; None for two.
        batch_size: clips of a batch, each with all of its windows.

    Raises:
        SpaceError: no such space. ValueError: no window.
    """
    output_name(model.config, modality, space)
    views = Views(windows, 1)
    numbers = range(len(clips)) if numbers is None else numbers
    config = DataConfig() if config is None else config
    batches = view_batches(clips, numbers, views, modality, model.config.input, config, batch_size=batch_size)
    for batch in batches:
        skipped, found = list(batch["skipped"]), batch["index"].tolist()
        if not found:
            yield Embedded([], torch.empty(0, width_of(model.config, modality, space)), skipped)
            continue
        x_BD = _of_clips(model, modality, batch["x"], batch["of_view"], space)
        finite, silent = torch.isfinite(x_BD).all(1), _silent(modality, batch["x"], space)[batch["of_view"]].all(1)
        good = finite & ~silent
        for number, fine, quiet in zip(found, good.tolist(), silent.tolist(), strict=True):
            if not fine:
                not_finite = "embedding", _NOT_FINITE
                field, reason = ("audio", "is silent") if quiet else not_finite
                skipped.append({"file": str(clips[number].video), "field": field, "reason": reason, "index": number})
        yield Embedded([n for n, fine in zip(found, good.tolist(), strict=True) if fine], x_BD[good], skipped)


def embed_inputs(model: VATT, modality: str, x: Tensor, space: str | None = None) -> Tensor:
    """(B, ...) inputs of `VATT.forward`, a window of an item each -> (B, D) float32 on the CPU.

    Raises:
        SpaceError: no such space.
    """
    return _of_clips(model, modality, x, torch.arange(len(x))[:, None], space)


def _of_clips(model: VATT, modality: str, x: Tensor, of_BV: Tensor, space: str | None) -> Tensor:
    """(R, ...) inputs, and the rows of the windows of each item -> (B, D): their mean; of sounds that of the windows
    which are not silent, unless all are."""
    name = output_name(model.config, modality, space)
    with evaluating(model):
        out = model(**{modality: x.to(next(model.parameters()).device)})[name].float().cpu()
    heard_BV = ~_silent(modality, x, space)[of_BV]
    weight_BV = torch.where(heard_BV.any(1, keepdim=True), heard_BV, True).float()
    mean_BD = (out[of_BV] * weight_BV[..., None]).sum(1) / weight_BV.sum(1, keepdim=True)
    return mean_BD if space == FEATURES else F.normalize(mean_BD, dim=-1)


def _silent(modality: str, x: Tensor, space: str | None) -> Tensor:
    """bool (R,): the sounds that have nothing to compare in a common space. "features" has silence, as any other sound:
    it may have a label."""
    if modality != "audio" or space == FEATURES:
        return torch.zeros(len(x), dtype=torch.bool)
    return (x.abs().amax(1) <= SILENCE).cpu()


def embed_sentences(
    model: VATT,
    tokenizer: Tokenizer | None,
    sentences: Sequence[str],
    *,
    space: str | None = None,
    numbers: Sequence[int] | None = None,
) -> Embedded:
    """Embeds sentences, at most ``config.input.words`` words of each; one without any word that the model knows is left
    out. An unknown word beside others counts as the vector of all unknown words.

    Raises:
        SpaceError: no such space. TextError: no tokenizer.
    """
    if tokenizer is None:
        raise TextError(
            "the model came without tokenizer.json, so its words are not known; "
            "name them: VATT.from_pretrained(DIR, vocabulary=FILE)"
        )
    numbers = list(range(len(sentences)) if numbers is None else numbers)
    sentences = list(map(whole_characters, sentences))  # a terminal gives what is not UTF-8 as half characters
    words = model.config.input.words
    ids_BW = torch.from_numpy(tokenizer.encode(sentences, words))
    skipped: list[Record] = []
    rows, found, unknown = list[int](), list[int](), list[str]()
    for row, (number, sentence) in enumerate(zip(numbers, sentences, strict=True)):
        strange, known = tokenizer.unknown_words(sentence, words)
        if known:
            rows.append(row)
            found.append(number)
            unknown += strange
        else:
            reason = f"{sentence!r} holds no word{' that the model knows' if strange else ''}"
            skipped.append({"file": "", "field": "text", "reason": reason, "index": number})
    if not rows:
        return Embedded([], torch.empty(0, width_of(model.config, "text", space)), skipped)
    x_BD = embed_inputs(model, "text", ids_BW[rows], space)
    fine_B = torch.isfinite(x_BD).all(1)
    for number in (n for n, fine in zip(found, fine_B.tolist(), strict=True) if not fine):
        skipped.append({"file": "", "field": "embedding", "reason": _NOT_FINITE, "index": number})
    return Embedded(list(compress(found, fine_B.tolist())), x_BD[fine_B], skipped, unknown)


def tell_unknown(where: str, unknown: Iterable[str]) -> None:
    """Warns of words that the model does not know, once for all of them."""
    if words := list(dict.fromkeys(unknown)):
        shown, more = ", ".join(map(repr, words[:_SHOWN])), len(words) - _SHOWN
        shown += f" and {more} more" if more > 0 else ""
        _log.warning("%s: words that the model does not know, which all mean the same to it: %s", where, shown)


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
    model: VATT,
    tokenizer: Tokenizer | None,
    sentences: str | Sequence[str],
    *,
    space: str | None = None,
    batch_size: int = 256,
) -> Tensor:
    """Embeddings of sentences; see `VATT.embed_text`.

    Raises:
        SpaceError: no such space. TextError: no tokenizer, or a sentence without any word that the model knows; the
        message quotes it. TypeError: no text. Unknown words beside others are a warning (logging).
    """
    output_name(model.config, "text", space)
    if isinstance(sentences, str):
        return embed_text(model, tokenizer, [sentences], space=space)[0]
    unknown: list[str] = []
    sentences = list(sentences)
    for sentence in sentences:
        if not isinstance(sentence, str):
            raise TypeError(f"text: expected sentences, got {type(sentence).__name__}")
    parts = [torch.empty(0, width_of(model.config, "text", space))]
    for first in range(0, len(sentences), batch_size):
        found = embed_sentences(model, tokenizer, sentences[first : first + batch_size], space=space)
        if found.skipped:
            raise TextError(f"text, item {first + found.skipped[0]['index']}: {found.skipped[0]['reason']}")
        parts.append(found.x_BD)
        unknown += found.unknown
    tell_unknown("text", unknown)
    return torch.cat(parts)


def clip_of(item: File) -> Clip:
    """The clip of a file, whose kind is told by its ending."""
    if isinstance(item, Clip):
        return item
    path = Path(item)
    return Clip(path, kind=kind_of(path) or "video")


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
    for number, silent in enumerate(_silent(modality, x, space).tolist()):
        if silent:
            raise ValueError(f"{modality}, item {number}: is silent, so it is like no other sound; leave it out")
    parts = [embed_inputs(model, modality, part, space) for part in x.split(batch_size)] if len(x) else []
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
