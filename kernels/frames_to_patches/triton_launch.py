"""Launches the kernel of `triton_kernels.py`. Shapes as there."""

from __future__ import annotations

import math

import triton
from torch import Tensor

from ..runtime import INTERPRETER, launch, tensor_arch
from .triton_kernels import frames_to_patches_forward

# Threads of a program, by the pixels of a patch. Not yet swept on a GPU.
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
) -> Tensor:
    """Kept patches (B, K, P)."""
    B, T, C = planes.shape
    grid = T // patch[0], size // patch[1], size // patch[2]
    K = math.prod(grid) if kept is None else kept.shape[-1]
    out = planes.new_empty(B, K, 3 * math.prod(patch))
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
        size,
        math.prod(grid),
        *grid[1:],
        KEPT=kept is not None,
        PER_ITEM=kept is not None and kept.ndim == 2,
        **{f"P{axis}": side for axis, side in zip("THW", patch, strict=True)},
        **{f"BLOCK_{axis}": triton.next_power_of_2(side) for axis, side in zip("THW", patch, strict=True)},
        num_warps=WARPS[tensor_arch(planes)],
    )
    return out
