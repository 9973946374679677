"""The kernels of the backend "gather", and their launches: patches as rows of a matrix, and what follows the product.

Shapes: B batch, K kept patches, N all patches, P numbers in a patch, D width, M rows (tokens and the aggregation token
of all items). In the matrix of patches the rows of the aggregation token are zeros, so it has the rows of the output.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import dropout
from ..runtime import launch, tensor_arch
from ..triton_dropout import keep_tile, row_key
from .triton_kernels import SPREAD, centred, inside_patch, patch_start
from .triton_launch import elementwise_config, kept_flags, signal_layout, token_count


@triton.jit
def patch_gather(
    x_ptr,  # (B, T, H, W): uint8 if UINT8, floats otherwise
    kept_ptr,  # (K,) int64, (B, K) if PER_ITEM, or None without KEPT
    patches_ptr,  # (M, P), written
    M,
    K,
    GH,  # patches along H
    GW,  # patches along W
    stride_b,  # of the signal, in numbers
    stride_t,
    stride_h,
    UINT8: tl.constexpr,
    KEPT: tl.constexpr,
    PER_ITEM: tl.constexpr,
    GATHERED: tl.constexpr,
    TOKEN: tl.constexpr,
    PT: tl.constexpr,
    PH: tl.constexpr,
    PW: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Kept patches one below the other, in the type of the product, by `centred`. A program: a tile of rows."""
    P: tl.constexpr = PT * PH * PW
    m = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    b, k = m // (K + TOKEN), m % (K + TOKEN) - TOKEN
    exist = (m < M) & (k >= 0)
    _, start = patch_start(kept_ptr, b, k, K, GH, GW, stride_b, stride_t, stride_h, KEPT, PER_ITEM, GATHERED,
                           PT, PH, PW, exist)  # fmt: skip
    for p0 in range(0, P, COLUMNS):
        p = p0 + tl.arange(0, COLUMNS)
        offsets = start[:, None] + inside_patch(p, stride_t, stride_h, PH, PW)[None, :]
        x = tl.load(x_ptr + offsets, mask=exist[:, None] & (p < P)[None, :], other=0)
        x = tl.where(exist[:, None], centred(x, patches_ptr.dtype.element_ty, UINT8), 0.0)
        tl.store(patches_ptr + m.to(tl.int64)[:, None] * P + p[None, :], x, mask=(m < M)[:, None] & (p < P)[None, :])


@triton.jit
def patch_finish(
    out_ptr,  # (M, D), the product of patches and weight; read and written
    bias_ptr,  # (D,), or None without BIAS
    positions_ptr,  # (N, D), or None without POSITIONS
    token_ptr,  # (D,), or None without TOKEN
    kept_ptr,  # (K,) int64, (B, K) if PER_ITEM, or None without KEPT
    seed_ptr,  # (1,) int64, or None without DROPOUT
    M,
    K,
    D,
    threshold,  # of the dropout, see `dropout.threshold`
    keep_scale,  # of what it keeps
    KEPT: tl.constexpr,
    PER_ITEM: tl.constexpr,
    BIAS: tl.constexpr,
    POSITIONS: tl.constexpr,
    TOKEN: tl.constexpr,
    DROPOUT: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Bias, positions and dropout of the tokens, and the aggregation token, in place. A program: a tile of rows."""
    m = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    b, k = m // (K + TOKEN), m % (K + TOKEN) - TOKEN
    exist = (m < M) & (k >= 0)
    # As a grid of one line: only the index counts.
    index, _ = patch_start(kept_ptr, b, k, K, 1, 1, 0, 0, 0, KEPT, PER_ITEM, False, 1, 1, 1, exist)
    keys = tl.zeros([ROWS], tl.uint32)
    if DROPOUT:
        keys = row_key(seed_ptr, m)
    for d0 in range(0, D, COLUMNS):
        d = d0 + tl.arange(0, COLUMNS)
        inside = (m < M)[:, None] & (d < D)[None, :]
        of_patch = exist[:, None] & (d < D)[None, :]
        offsets = m.to(tl.int64)[:, None] * D + d[None, :]
        value = tl.load(out_ptr + offsets, mask=of_patch, other=0.0).to(tl.float32)
        if BIAS:
            value += tl.load(bias_ptr + d, mask=d < D, other=0.0).to(tl.float32)[None, :]
        if POSITIONS:
            rows = positions_ptr + index.to(tl.int64)[:, None] * D
            value += tl.load(rows + d[None, :], mask=of_patch, other=0.0).to(tl.float32)
        if DROPOUT:
            kept = keep_tile(keys, d0 // 4 + tl.arange(0, COLUMNS // 4), threshold)
            value = tl.where(kept, value * keep_scale, 0.0)
        if TOKEN:
            token = tl.load(token_ptr + d, mask=d < D, other=0.0).to(tl.float32)
            value = tl.where((k < 0)[:, None], token[None, :], value)
        tl.store(out_ptr + offsets, value.to(out_ptr.dtype.element_ty), mask=inside)


def factor(x: Tensor, dtype: torch.dtype) -> float:
    """What products with the patches that `gather` makes of ``x`` must be multiplied with."""
    return SPREAD[dtype] / 127.5 if x.dtype == torch.uint8 else 1.0


def gather(
    x: Tensor, patch: list[int], kept: Tensor | None, extra: int, dtype: torch.dtype, gathered: bool = False
) -> Tensor:
    """Patches (M, P) of type ``dtype``, up to `factor`; zeros in the rows of ``extra`` tokens. Those that are
    ``gathered`` are only converted."""
    grid, numbers, sides = signal_layout(x, patch)
    B, K, P = x.shape[0], token_count(grid, kept), sides["PT"] * sides["PH"] * sides["PW"]
    M = B * (K + extra)
    patches = x.new_empty(M, P, dtype=dtype)
    config = elementwise_config(tensor_arch(x), M, P)
    flags = dict(UINT8=x.dtype == torch.uint8, TOKEN=extra, GATHERED=gathered, **kept_flags(kept))
    tile = dict(ROWS=config.rows, COLUMNS=config.columns, num_warps=config.warps)
    launch(patch_gather, (triton.cdiv(M, config.rows),), x, kept, patches, M, K, *numbers, **flags, **sides, **tile)
    return patches


def finish(
    out: Tensor,
    bias: Tensor | None,
    kept: Tensor | None,
    positions: Tensor | None,
    token: Tensor | None,
    seed: Tensor | None,
    p: float,
) -> None:
    """Bias, positions, dropout and the token into the product ``out`` (B, K, D), or (B, 1 + K, D) with the token."""
    B, rows, D = out.shape
    extra = int(token is not None)
    config = elementwise_config(tensor_arch(out), B * rows, D)
    launch(
        patch_finish,
        (triton.cdiv(B * rows, config.rows),),
        out,
        bias,
        positions,
        token,
        kept,
        seed,
        B * rows,
        rows - extra,
        D,
        dropout.threshold(p),
        dropout.keep_scale(p),
        **kept_flags(kept),
        BIAS=bias is not None,
        POSITIONS=positions is not None,
        TOKEN=extra,
        DROPOUT=dropout.threshold(p) > 0,
        ROWS=config.rows,
        COLUMNS=config.columns,
        num_warps=config.warps,
    )
