"""Frames that are still as the decoder left them (`data.augment_on=gpu`): their patches are made in front of a step.

A batch then holds "planes", "sizes", "crop", "flip" and "colour", as `vatt.kernels.frames_to_patches` takes them, in
place of the pixels of its clips.

Shapes: B clips, T frames, C bytes of a frame, S side, K kept patches, P values of a patch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vatt.clip import InputConfig
from vatt.kernels import frames_to_patches
from vatt.models.tokens import PatchTokens, send

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
    batch: Mapping[str, Any], name: str, tokens: PatchTokens, spec: InputConfig | None, kept: Tensor | None
) -> Mapping[str, Any]:
    """The batch with patches uint8 (B, K, P) as ``name`` in place of planes. One without planes is returned as it is.

    Args:
        tokens: that read them.
        kept: int64 (K,) or (B, K), which patches; None for all.
    """
    if "planes" not in batch:
        return batch
    assert spec is not None
    planes, sizes, crop, flip, colour = (batch[part] for part in NAMES)
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
    return {key: value for key, value in batch.items() if key not in NAMES} | {name: patches_BKP}
