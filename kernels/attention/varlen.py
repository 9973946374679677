"""Sequences of any length, packed one after the other: the packing itself, the map from a program of the Triton kernels
to its block of a sequence, and packed attention for backends that only know dense batches.

A packing is a tuple of segments (count, length): ``count`` sequences of ``length`` tokens each, in the order of the
rows. A dense batch is one segment; video, audio and text of one batch are three; ragged sequences are one segment each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor

Segments = tuple[tuple[int, int], ...]
Dense = Callable[..., tuple[Tensor, Tensor | None]]
Place = tuple[int, int]  # tokens before a segment, tokens of all: what the dropout mask counts rows by

SHORT = 32  # tokens of a sequence that fits into one small block

_tile_maps: dict[tuple[Segments, tuple[int, ...], int, torch.device], Tensor] = {}
_MOST_TILE_MAPS = 256  # beyond, the oldest is forgotten (ragged batches make a new one each step)


def segments_of(cu_seqlens: Tensor | Sequence[int]) -> Segments:
    """The packing with the boundaries ``cu_seqlens`` (0, n_1, n_1 + n_2, ...); waits for a tensor on a GPU.

    Raises:
        ValueError: boundaries that do not begin at 0 or that decrease.
    """
    bounds = cu_seqlens.tolist() if isinstance(cu_seqlens, Tensor) else list(cu_seqlens)
    lengths = [b - a for a, b in pairwise(bounds)]
    if not bounds or bounds[0] != 0 or min([0, *lengths]) < 0:
        raise ValueError(f"cu_seqlens: expected 0 and then sums of lengths, got {bounds[:8]}")
    merged: list[list[int]] = []
    for length in lengths:
        if merged and merged[-1][1] == length:
            merged[-1][0] += 1
        else:
            merged.append([1, length])
    return tuple((count, length) for count, length in merged)


def tokens(segments: Segments) -> int:
    """Rows of the packed tensor."""
    return sum([count * length for count, length in segments])


def longest(segments: Segments) -> int:
    """Tokens of the longest sequence."""
    return max([0] + [length for _, length in segments])


def by_segment(dense: Dense) -> Callable[..., Tensor]:
    """Packed attention from calls of ``dense`` (q, k, v, mask, bias, scale, dropout_p, seed, place), one per segment,
    without padding. ``masked`` says which segments the mask concerns (None: all)."""

    def run(
        qkv_T3HE: Tensor,
        segments: Segments,
        mask_T: Tensor | None,
        masked: Sequence[bool] | None,
        bias_HNN: Tensor | None,
        scale: float,
        dropout_p: float,
        seed: Tensor | None = None,
    ) -> Tensor:
        outs, first = [], 0
        for (count, length), has_mask in zip(segments, masked or (True,) * len(segments), strict=True):
            part, place = slice(first, first + count * length), (first, qkv_T3HE.shape[0])
            first = part.stop
            q_BNHE, k_BNHE, v_BNHE = qkv_T3HE[part].unflatten(0, (count, length)).unbind(2)
            mask_BN = mask_T[part].unflatten(0, (count, length)) if mask_T is not None and has_mask else None
            out_BNHE, _ = dense(q_BNHE, k_BNHE, v_BNHE, mask_BN, bias_HNN, scale, dropout_p, seed, place)
            outs.append(out_BNHE.flatten(0, 1))
        return torch.cat(outs) if len(outs) != 1 else outs[0]

    return run


def groups(segments: Segments, masked: Sequence[bool]) -> list[tuple[bool, int, tuple[int, ...]]]:
    """Segments that one launch serves: (has a mask, longest sequence, indices of the segments).

    Short sequences have a launch config of their own, and only segments with a mask pay for reading it.
    """
    found: dict[tuple[bool, bool], list[int]] = {}
    for index, ((_, length), has_mask) in enumerate(zip(segments, masked, strict=True)):
        found.setdefault((has_mask, length <= SHORT), []).append(index)
    return [
        (has_mask, max(segments[index][1] for index in indices), tuple(indices))
        for (has_mask, _), indices in found.items()
    ]


def tile_map(segments: Segments, chosen: tuple[int, ...], block: int, device: torch.device) -> Tensor:
    """int32 (tiles, 3) of the ``chosen`` segments: first row of the sequence, its length, first token of the block.
    The longest come first, so that the last programs to run are short ones. It is made at the first call and kept.

    Raises:
        RuntimeError: a CUDA graph is being captured, and this packing was never run before.
    """
    key = (segments, chosen, block, device)
    if key not in _tile_maps:
        while len(_tile_maps) >= _MOST_TILE_MAPS:
            oldest = _tile_maps.pop(next(iter(_tile_maps)))
            if oldest.device.type == "cuda":  # kernels that read it may still be waiting
                oldest.record_stream(torch.cuda.current_stream(oldest.device))
        _tile_maps[key] = _on_device(_tiles(segments, chosen, block), device)
    return _tile_maps[key]


def _on_device(tiles: Tensor, device: torch.device) -> Tensor:
    """The tiles on ``device``. The host waits for this copy, but not for what the GPU has to compute.

    Another thread and stream make them: a memory pool of CUDA graphs takes what is allocated by the thread, or on the
    stream, that warms up or captures, and would give the memory of a kept tensor to others.
    """
    if device.type != "cuda":
        return tiles.to(device)
    if torch.cuda.is_current_stream_capturing():
        raise RuntimeError(
            "attention: this packing of sequences was never run before, and what it needs cannot be made while a CUDA "
            "graph is captured; run it once before the capture"
        )

    def copy() -> Tensor:
        with torch.cuda.stream(_copy_stream(device)):
            return tiles.to(device)

    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(copy).result()


@cache
def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


def _tiles(segments: Segments, chosen: tuple[int, ...], block: int) -> Tensor:
    firsts = list(accumulate((count * length for count, length in segments), initial=0))
    here: dict[str, Any] = dict(dtype=torch.int32, device="cpu")
    parts = [torch.empty(0, 3, **here)]
    for index in sorted(chosen, key=lambda index: -segments[index][1]):
        count, length = segments[index]
        starts = firsts[index] + length * torch.arange(count, **here)
        blocks = torch.arange(0, length, block, **here)
        grid = torch.cartesian_prod(starts, blocks).view(-1, 2)
        parts.append(torch.stack([grid[:, 0], torch.full_like(grid[:, 0], length), grid[:, 1]], dim=1))
    return torch.cat(parts).contiguous()
