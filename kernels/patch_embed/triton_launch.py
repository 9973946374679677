"""Launches the patch embedding kernels. Shapes as in `triton_kernels.py`."""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
from torch import Tensor

from .. import dropout
from ..runtime import family_of, launch
from . import blocks
from .triton_kernels import patch_embed_dropped, patch_embed_forward, patch_embed_positions, patch_embed_weight


def _layout(x: Tensor, patch: list[int]) -> tuple[tuple[int, ...], tuple[int, int, int, int, int], dict[str, int]]:
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


def _flags(x: Tensor, kept: Tensor | None) -> dict[str, bool]:
    return {"UINT8": x.dtype == torch.uint8, "KEPT": kept is not None, "PER_ITEM": kept is not None and kept.ndim == 2}


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
) -> Tensor:
    """Tokens (B, K, D) or, with the aggregation token, (B, 1 + K, D)."""
    grid, numbers, sides = _layout(x, patch)
    B, K, D = x.shape[0], kept.shape[-1] if kept is not None else math.prod(grid), weight.shape[0]
    extra = int(token is not None)
    out = weight.new_empty(B, extra + K, D)
    M = B * (extra + K)
    block = blocks.forward(family_of(weight), weight.dtype == torch.float32, M, D, weight.shape[1])
    launch(
        patch_embed_forward,
        (triton.cdiv(M, block.rows) * triton.cdiv(D, block.columns),),
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
        **_flags(x, kept),
        **sides,
        BIAS=bias is not None,
        POSITIONS=positions is not None,
        TOKEN=extra,
        DROPOUT=p > 0,
        BLOCK_M=block.rows,
        BLOCK_D=block.columns,
        BLOCK_P=block.depth,
        PRECISION="tf32x3",
        num_warps=block.warps,
        num_stages=block.stages,
    )
    return out


def dropped(grad_out: Tensor, extra: int, seed: Tensor | None, p: float) -> Tensor:
    """The gradient in front of the dropout, (B, ``extra`` + K, D)."""
    if p == 0:
        return grad_out
    B, rows, D = grad_out.shape
    grad = torch.empty_like(grad_out)
    block = blocks.elements(family_of(grad_out), B * rows, D)
    grid = (triton.cdiv(B * rows, block.rows), triton.cdiv(D, block.columns))
    sizes = B * rows, D, rows, dropout.threshold(p), dropout.keep_scale(p)
    options = dict(TOKEN=extra, ROWS=block.rows, COLUMNS=block.columns, num_warps=block.warps)
    launch(patch_embed_dropped, grid, grad_out, seed, grad, *sizes, **options)
    return grad


def weight_gradient(grad_out: Tensor, x: Tensor, patch: list[int], kept: Tensor | None, extra: int) -> Tensor:
    """Partial sums (S, D, P) of the gradient of the weight."""
    _, numbers, sides = _layout(x, patch)
    B, rows, D = grad_out.shape
    P, M = math.prod(sides.values()), B * rows
    family = family_of(grad_out)
    block = blocks.weight(family, grad_out.dtype == torch.float32, M, D, P)
    tiles = triton.cdiv(P, block.rows) * triton.cdiv(D, block.columns)
    splits = blocks.splits(family, tiles, triton.cdiv(M, block.depth))
    partial = grad_out.new_empty(splits, D, P, dtype=torch.float32)
    options: dict[str, Any] = dict(_flags(x, kept), **sides)
    launch(
        patch_embed_weight,
        (tiles, splits),
        x,
        kept,
        grad_out,
        partial,
        M,
        rows - extra,
        D,
        *numbers,
        **options,
        TOKEN=extra,
        BLOCK_P=block.rows,
        BLOCK_D=block.columns,
        BLOCK_M=block.depth,
        PRECISION="tf32x3",
        num_warps=block.warps,
        num_stages=block.stages,
    )
    return partial


def positions_gradient(grad_out: Tensor, count: int, kept: Tensor | None, extra: int) -> Tensor:
    """Gradient (N, D) in float32 of ``count`` = N position rows. Its sum over N is the gradient of the bias."""
    B, rows, D = grad_out.shape
    K = rows - extra
    places = torch.arange(K, device=grad_out.device) if kept is None else kept.flatten()
    ordered, order = torch.sort(places, stable=True)
    bounds = torch.searchsorted(ordered, torch.arange(count + 1, device=grad_out.device))
    grad = grad_out.new_empty(count, D, dtype=torch.float32)
    wide = blocks.positions(family_of(grad_out), D)
    launch(
        patch_embed_positions,
        (count, triton.cdiv(D, wide)),
        order,
        bounds,
        grad_out,
        grad,
        B,
        K,
        D,
        PER_ITEM=kept is not None and kept.ndim == 2,
        TOKEN=extra,
        BLOCK_B=8,
        BLOCK_D=wide,
        num_warps=4,
    )
    return grad
