"""Launches the kernel of `triton_kernels.py`. Shapes as there."""

from __future__ import annotations

import math

from torch import Tensor

from ..runtime import INTERPRETER, launch, tensor_arch
from .reference import padded
from .triton_kernels import frames_to_patches_forward

# Not yet swept on a GPU.
WARPS = {"sm80": 4, "sm90": 4, "sm100": 4, INTERPRETER: 4}


def forward(
    planes: Tensor,
    sizes: Tensor,
    crop: Tensor,
    flip: Tensor,
    colour: Tensor,
    kept: Tensor | None,
    size: int,
    patch: list[int],
    whole: bool,
) -> Tensor:
    """Kept patches (B, K, P), or ``whole`` clips (B, T, S, S, 3), which are computed by patches."""
    B, T, C = planes.shape
    extent = T, size, size
    grid = [-(-n // side) if whole else n // side for n, side in zip(extent, patch, strict=True)]
    K = math.prod(grid) if kept is None else kept.shape[-1]
    out = planes.new_empty(B, *extent, 3) if whole else planes.new_empty(B, K, 3 * math.prod(patch))
    launch(
        frames_to_patches_forward,
        (B * K,),
        planes,
        sizes,
        crop,
        flip,
        colour,
        kept,
        out,
        T,
        C,
        K,
        S=size,
        KEPT=kept is not None,
        PER_ITEM=kept is not None and kept.ndim == 2,
        WHOLE=whole,
        **{f"G{axis}": count for axis, count in zip("THW", grid, strict=True)},
        **{f"P{axis}": side for axis, side in zip("THW", patch, strict=True)},
        **{f"BLOCK_{axis}": side for axis, side in zip("THW", padded(patch), strict=True)},
        num_warps=WARPS[tensor_arch(planes)],
    )
    return out
