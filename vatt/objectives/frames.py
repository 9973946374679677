"""Frames that are still as the decoder left them (`data.augment_on=gpu`): their patches are made in front of a step.

A batch then holds "planes", "sizes", "crop", "flip" and "colour", as `vatt.kernels.frames_to_patches` takes them, in
place of the pixels of its clips.

Shapes: B clips, T frames, C bytes of a frame, S side, K kept patches, P values of a patch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vatt.clip import InputConfig
from vatt.kernels import frames_to_patches
from vatt.models.mmv.layers import WholeSignal
from vatt.models.tokens import PatchTokens, send

_SQUARE = 16  # pixels: side of the squares in which whole frames are made
NAMES = ("planes", "sizes", "crop", "flip", "colour")


def empty_frames(count: int, spec: InputConfig, name: str, planes: int = 0) -> dict[str, Tensor]:
    """The frames of ``count`` clips as the loader gives them, without memory (on the device "meta"): under ``name``, or
    with ``planes`` bytes of a frame as `NAMES`."""

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(count, *shape, dtype=dtype, device="meta")

    if not planes:
        return {name: empty(spec.frames, spec.size, spec.size, 3, dtype=torch.uint8)}
    return {
        "planes": empty(spec.frames, planes, dtype=torch.uint8),
        "sizes": empty(2, dtype=torch.int32),
        "crop": empty(4),
        "flip": empty(dtype=torch.uint8),
        "colour": empty(3, 4),
    }


def like_clips(batch: Mapping[str, Any], name: str, spec: InputConfig | None) -> Tensor | None:
    """What has the shape of the clips of a batch: ``name`` itself, or for planes a tensor without memory."""
    if "planes" not in batch:
        return batch.get(name)
    assert spec is not None
    shape = (*batch["planes"].shape[:2], spec.size, spec.size, 3)
    return torch.empty(shape, dtype=torch.uint8, device="meta")


def with_patches(
    batch: Mapping[str, Any],
    name: str,
    tokens: PatchTokens | WholeSignal,
    spec: InputConfig | None,
    kept: Tensor | None,
) -> Mapping[str, Any]:
    """The batch with patches uint8 (B, K, P) as ``name`` in place of planes, or with frames (B, T, S, S, 3) where a
    network reads these. One without planes is returned as it is.

    Args:
        tokens: that read them.
        kept: int64 (K,) or (B, K), which patches; None for all.
    """
    if "planes" not in batch:
        return batch
    assert spec is not None
    planes, sizes, crop, flip, colour = (batch[part] for part in NAMES)
    if isinstance(tokens, WholeSignal):  # squares of all frames, put together again
        side = math.gcd(spec.size, _SQUARE)
        time, height, width = 1, side, side
    else:
        time, height, width = tokens.patch
        tokens.patch_grid = (spec.frames // time, spec.size // height, spec.size // width)
    patches_BKP = frames_to_patches(
        planes,
        sizes,
        crop,
        flip,
        colour,
        size=spec.size,
        patch=(time, height, width),
        kept=None if kept is None else send(kept, planes.device),
        backend=tokens.backend,
    )
    others = {key: value for key, value in batch.items() if key not in NAMES}
    if isinstance(tokens, WholeSignal):
        rows = spec.size // height
        x = patches_BKP.unflatten(1, (spec.frames, rows, rows)).unflatten(-1, (height, width, 3))
        return others | {name: x.transpose(3, 4).flatten(4, 5).flatten(2, 3)}
    return others | {name: patches_BKP}
