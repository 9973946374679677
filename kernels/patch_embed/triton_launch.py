"""Launches the patch embedding kernels, with their launch configs. Shapes as in `triton_kernels.py`."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from .. import dropout
from ..runtime import INTERPRETER, interpreter_block, launch, tensor_arch
from .triton_kernels import (
    patch_embed_forward,
    patch_embed_positions,
    patch_embed_rows,
    patch_embed_starts,
    patch_embed_weight,
)


class LaunchConfig(NamedTuple):
    """A tile of the product, ``rows`` x ``columns``, summed over steps of ``depth``."""

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int


# Not yet swept on a GPU. Forward: rows are tokens, columns the width, the sum runs over the numbers of a patch.
# Four warps leave room for two programs on a multiprocessor of sm90: one converts bytes while the other multiplies.
FORWARD_CONFIGS = {
    "sm80": LaunchConfig(128, 128, 64, 8, 3),
    "sm90": LaunchConfig(128, 128, 64, 4, 3),
    "sm100": LaunchConfig(128, 128, 64, 8, 3),
}
UNEVEN_CONFIG = LaunchConfig(128, 128, 64, 8, 3)
# Weight gradient: rows are the numbers of a patch, columns the width, the sum runs over tokens.
WEIGHT_CONFIGS = {
    "sm80": LaunchConfig(128, 128, 32, 8, 3),
    "sm90": LaunchConfig(128, 128, 64, 8, 3),
    "sm100": LaunchConfig(128, 128, 64, 8, 3),
}
FP32_CONFIG = LaunchConfig(64, 64, 32, 8, 2)
# Programs of the weight gradient that run at a time.
PROGRAMS = {"interpreter": 4, "sm80": 108, "sm90": 264, "sm100": 296}
FULL, MAX_WAVES = 0.9, 8  # of `split_count`


def forward_config(arch: str, fp32: bool, rows: int, width: int, patch: int) -> LaunchConfig:
    """``fp32``: float32 weights."""
    if arch == INTERPRETER:
        return _interpreter_config(rows, width, patch)
    if fp32:
        return FP32_CONFIG
    config = FORWARD_CONFIGS[arch]
    # Of sizes that are no multiples of the tile, the masks take registers, and four warps have none to spare.
    return UNEVEN_CONFIG if config.warps < 8 and (width % config.columns or patch % config.depth) else config


def weight_config(arch: str, fp32: bool, rows: int, width: int, patch: int) -> LaunchConfig:
    """Of the weight gradient, whose sum runs over ``rows`` tokens."""
    if arch == INTERPRETER:
        return _interpreter_config(patch, width, rows)
    return FP32_CONFIG if fp32 else WEIGHT_CONFIGS[arch]


def _interpreter_config(rows: int, columns: int, depth: int) -> LaunchConfig:
    return LaunchConfig(interpreter_block(rows), interpreter_block(columns), interpreter_block(depth, 256), 4, 1)


def elementwise_config(arch: str, rows: int, width: int) -> LaunchConfig:
    """Element by element: 16 bytes per thread and row."""
    if arch == INTERPRETER:
        return LaunchConfig(4 if rows <= 32 else 32, interpreter_block(width, 256), 0, 4, 1)
    return LaunchConfig(8, 256, 0, 4, 1)


def positions_columns(arch: str, width: int) -> int:
    """Columns of a program that sums the gradients of a position."""
    return interpreter_block(width, 256) if arch == INTERPRETER else min(256, triton.next_power_of_2(width))


def split_count(arch: str, tiles: int, steps: int) -> int:
    """Into how many partial sums the ``steps`` of a weight gradient of ``tiles`` tiles are divided: the fewest that
    keep nine tenths of the GPU busy, since each costs memory; else those that keep most of it busy."""
    programs, best, share, steps = PROGRAMS[arch], 1, 0.0, max(steps, 1)
    for splits in range(1, max(1, min(steps, MAX_WAVES * programs // tiles)) + 1):
        waves = math.ceil(tiles * splits / programs)
        busy = tiles * steps / (waves * programs * math.ceil(steps / splits))
        if busy > share:
            best, share = splits, busy
        if share >= FULL:
            break
    return best


def signal_layout(
    x: Tensor, patch: list[int]
) -> tuple[tuple[int, ...], tuple[int, int, int, int, int], dict[str, int]]:
    """The signal as (B, T, H, W) with channels in W: grid (GT, GH, GW), (GH, GW, strides of B, T, H), patch sizes."""
    axes = len(patch)
    channels = x.shape[-1] if x.ndim == 2 + axes else 1
    sizes = [1] * (3 - axes) + list(x.shape[1 : 1 + axes])
    sides = [1] * (3 - axes) + list(patch)
    grid = tuple(size // side for size, side in zip(sizes, sides, strict=True))
    stride_h = sizes[2] * channels
    stride_t = sizes[1] * stride_h
    numbers = grid[1], grid[2], sizes[0] * stride_t, stride_t, stride_h
    return grid, numbers, {"PT": sides[0], "PH": sides[1], "PW": sides[2] * channels}


def token_count(grid: tuple[int, ...], kept: Tensor | None) -> int:
    """K, of a signal with a ``grid`` of patches."""
    return math.prod(grid) if kept is None else kept.shape[-1]


def kept_flags(kept: Tensor | None) -> dict[str, bool]:
    """Of the kernels that read kept indices."""
    return {"KEPT": kept is not None, "PER_ITEM": kept is not None and kept.ndim == 2}


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    patch: list[int],
    kept: Tensor | None,
    positions: Tensor | None,
    token: Tensor | None,
    seed: Tensor | None,
    p: float,
    gathered: bool = False,
) -> Tensor:
    """Tokens (B, K, D) or, with the aggregation token, (B, 1 + K, D)."""
    grid, numbers, sides = signal_layout(x, patch)
    B, K, D = x.shape[0], token_count(grid, kept), weight.shape[0]
    extra = int(token is not None)
    out = weight.new_empty(B, extra + K, D)
    M = B * (extra + K)
    config = forward_config(tensor_arch(weight), weight.dtype == torch.float32, M, D, weight.shape[1])
    launch(
        patch_embed_forward,
        (triton.cdiv(M, config.rows) * triton.cdiv(D, config.columns),),
        x,
        weight,
        bias,
        positions,
        token,
        kept,
        seed,
        out,
        M,
        K,
        D,
        *numbers,
        dropout.threshold(p),
        dropout.keep_scale(p),
        UINT8=x.dtype == torch.uint8,
        **kept_flags(kept),
        GATHERED=gathered,
        **sides,
        BIAS=bias is not None,
        POSITIONS=positions is not None,
        TOKEN=extra,
        DROPOUT=dropout.threshold(p) > 0,
        EVEN=D % config.columns == 0,
        BLOCK_M=config.rows,
        BLOCK_D=config.columns,
        BLOCK_P=config.depth,
        PRECISION="tf32x3",
        num_warps=config.warps,
        num_stages=config.stages,
    )
    return out


def rows_gradient(grad_out: Tensor, extra: int, seed: Tensor | None, p: float) -> tuple[Tensor, Tensor]:
    """The gradient in front of the dropout, (B, ``extra`` + K, D), and its sums over B, (``extra`` + K, D) float32."""
    B, rows, D = grad_out.shape
    dropped = dropout.threshold(p) > 0
    grad = torch.empty_like(grad_out) if dropped else grad_out
    sums = grad_out.new_empty(rows, D, dtype=torch.float32)
    config = elementwise_config(tensor_arch(grad_out), B, D)
    launch(
        patch_embed_rows,
        (rows, triton.cdiv(D, config.columns)),
        grad_out,
        seed,
        grad if dropped else None,
        sums,
        B,
        rows,
        D,
        dropout.threshold(p),
        dropout.keep_scale(p),
        TOKEN=extra,
        DROPOUT=dropped,
        BLOCK_B=config.rows,
        COLUMNS=config.columns,
        num_warps=config.warps,
    )
    return grad, sums


def weight_gradient(
    grad_out: Tensor, x: Tensor, patch: list[int], kept: Tensor | None, extra: int, gathered: bool = False
) -> Tensor:
    """Partial sums (S, D, P) of the gradient of the weight."""
    _, numbers, sides = signal_layout(x, patch)
    B, rows, D = grad_out.shape
    P, M = math.prod(sides.values()), B * rows
    arch = tensor_arch(grad_out)
    config = weight_config(arch, grad_out.dtype == torch.float32, M, D, P)
    tiles = triton.cdiv(P, config.rows) * triton.cdiv(D, config.columns)
    splits = split_count(arch, tiles, triton.cdiv(M, config.depth))
    partial = grad_out.new_empty(splits, D, P, dtype=torch.float32)
    launch(
        patch_embed_weight,
        (tiles, splits),
        x,
        _starts(x, patch, None if gathered else kept, B, rows - extra, extra, config.depth),
        grad_out,
        partial,
        M,
        D,
        *numbers[3:],
        **sides,
        UINT8=x.dtype == torch.uint8,
        ALIGN=_alignment(numbers, sides),
        BLOCK_P=config.rows,
        BLOCK_D=config.columns,
        BLOCK_M=config.depth,
        PRECISION="tf32x3",
        num_warps=config.warps,
        num_stages=config.stages,
    )
    return partial


def _starts(x: Tensor, patch: list[int], kept: Tensor | None, B: int, K: int, extra: int, multiple: int) -> Tensor:
    """What `patch_embed_starts` computes: (R,) int64, where R is a ``multiple`` of some rows."""
    _, numbers, sides = signal_layout(x, patch)
    M = B * (K + extra)
    R = triton.cdiv(M, multiple) * multiple
    starts = x.new_empty(R, dtype=torch.int64)
    flags = dict(TOKEN=extra, **kept_flags(kept))
    align, block = _alignment(numbers, sides), 256
    launch(
        patch_embed_starts,
        (triton.cdiv(R, block),),
        kept,
        starts,
        M,
        K,
        *numbers,
        R,
        ALIGN=align,
        **flags,
        **sides,
        BLOCK=block,
    )
    return starts


def _alignment(numbers: tuple[int, ...], sides: dict[str, int]) -> int:
    """A power of two up to 16 that divides each start of a patch."""
    _, _, stride_b, stride_t, stride_h = numbers
    return math.gcd(stride_b, sides["PT"] * stride_t, sides["PH"] * stride_h, sides["PW"], 16)


def positions_gradient(grad: Tensor, sums: Tensor, count: int, kept: Tensor | None, extra: int) -> Tensor:
    """Gradient (N, D) in float32 of ``count`` = N position rows, from what `rows_gradient` gives. Its sum over N is the
    gradient of the bias."""
    K, D = sums.shape[0] - extra, sums.shape[1]
    if kept is None:
        return sums[extra:]
    shared = kept.ndim == 1
    ordered, order = torch.sort(kept.flatten(), stable=True)
    bounds = torch.searchsorted(ordered, torch.arange(count + 1, device=grad.device))
    positions = sums.new_empty(count, D)
    columns = positions_columns(tensor_arch(grad), D)
    launch(
        patch_embed_positions,
        (count, triton.cdiv(D, columns)),
        order,
        bounds,
        sums[extra:] if shared else grad,
        positions,
        K,
        D,
        TOKEN=0 if shared else extra,
        BLOCK_R=2 if shared else 8,
        BLOCK_D=columns,
        num_warps=2,
    )
    return positions
