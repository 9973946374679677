"""Residual sum, dropout and norm in one pass over the rows, and their backward pass.

Shapes: R rows, D width, G programs of the backward pass. Every tensor is contiguous. A program holds whole rows:
WIDTH is D, or the power of two above it, and at least 4.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..triton_dropout import keep_tile, row_key


@triton.jit
def norm_forward(
    x_ptr,  # (R, D)
    residual_ptr,  # (R, D), or None without RESIDUAL
    weight_ptr,  # (D,)
    bias_ptr,  # (D,), or None without CENTRED
    seed_ptr,  # (1,) int64, or None without DROPOUT
    total_ptr,  # (R, D), written with RESIDUAL
    normed_ptr,  # (R, D), written
    mean_ptr,  # (R,) float32, written with CENTRED
    rstd_ptr,  # (R,) float32, written
    R,
    D,
    eps,
    threshold,  # of the dropout, see `dropout.threshold`
    scale,  # of what it keeps
    RESIDUAL: tl.constexpr,
    CENTRED: tl.constexpr,
    DROPOUT: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """total = dropout(x) + residual, and its norm: layer norm if CENTRED, RMS norm otherwise. A program: ROWS rows."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, WIDTH)
    inside = (rows < R)[:, None] & (columns < D)[None, :]
    offsets = rows.to(tl.int64)[:, None] * D + columns[None, :]
    total = tl.load(x_ptr + offsets, mask=inside, other=0.0)
    if DROPOUT:
        kept = keep_tile(row_key(seed_ptr, rows), tl.arange(0, WIDTH // 4), threshold)
        total = tl.where(kept, total.to(tl.float32) * scale, 0.0)
    if RESIDUAL:
        residual = tl.load(residual_ptr + offsets, mask=inside, other=0.0)
        # Rounded before it is normalised, so that the backward pass sees the numbers that were normalised.
        rounded = (total.to(tl.float32) + residual.to(tl.float32)).to(total_ptr.dtype.element_ty)
        tl.store(total_ptr + offsets, rounded, mask=inside)
        total = rounded
    total = total.to(tl.float32)
    if CENTRED:
        mean = tl.sum(total, 1) / D
        tl.store(mean_ptr + rows, mean, mask=rows < R)
        total = tl.where(inside, total - mean[:, None], 0.0)
    rstd = 1.0 / tl.sqrt(tl.sum(total * total, 1) / D + eps)
    tl.store(rstd_ptr + rows, rstd, mask=rows < R)
    weight = tl.load(weight_ptr + columns, mask=columns < D, other=0.0).to(tl.float32)
    normed = total * rstd[:, None] * weight[None, :]
    if CENTRED:
        normed += tl.load(bias_ptr + columns, mask=columns < D, other=0.0).to(tl.float32)[None, :]
    tl.store(normed_ptr + offsets, normed.to(normed_ptr.dtype.element_ty), mask=inside)


# Backward. A row t (the total) has hat = (t - mean) rstd and out = hat w + b; RMS norm has no mean and no b. With
# g = dout w, <.> the mean over the row, and dtotal the gradient that reaches the total as an output of its own, the
# derivatives of mean and rstd give
#
#     dt = (g - hat <g hat> - <g>) rstd + dtotal; RMS norm: without <g>
#     dresidual = dt
#     dx = c z dt, where the dropout mask z is 0 or 1 and c = 1 / (1 - its rate)
#     dw = sum over rows of dout hat
#     db = sum over rows of dout


@triton.jit
def norm_backward(
    grad_total_ptr,  # (R, D), dtotal, or None without GRAD_TOTAL
    grad_normed_ptr,  # (R, D), dout
    total_ptr,  # (R, D)
    weight_ptr,  # (D,)
    mean_ptr,  # (R,) float32, or None without CENTRED
    rstd_ptr,  # (R,) float32
    seed_ptr,  # (1,) int64, or None without DROPOUT
    grad_residual_ptr,  # (R, D), written
    grad_x_ptr,  # (R, D), written with DROPOUT
    grad_weight_ptr,  # (G, D) float32, written
    grad_bias_ptr,  # (G, D) float32, written with CENTRED
    R,
    D,
    threshold,
    scale,
    GRAD_TOTAL: tl.constexpr,
    CENTRED: tl.constexpr,
    DROPOUT: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Each program walks over tiles of rows and keeps its own sums for weight and bias, (G, D): no atomics."""
    columns = tl.arange(0, WIDTH)
    weight = tl.load(weight_ptr + columns, mask=columns < D, other=0.0).to(tl.float32)
    grad_weight = tl.zeros([WIDTH], tl.float32)
    grad_bias = tl.zeros([WIDTH], tl.float32)
    for tile in tl.range(tl.program_id(0), tl.cdiv(R, ROWS), tl.num_programs(0), num_stages=STAGES):
        rows = tile * ROWS + tl.arange(0, ROWS)
        inside = (rows < R)[:, None] & (columns < D)[None, :]
        offsets = rows.to(tl.int64)[:, None] * D + columns[None, :]
        grad = tl.load(grad_normed_ptr + offsets, mask=inside, other=0.0).to(tl.float32)
        hat = tl.load(total_ptr + offsets, mask=inside, other=0.0).to(tl.float32)
        rstd = tl.load(rstd_ptr + rows, mask=rows < R, other=0.0)
        if CENTRED:
            mean = tl.load(mean_ptr + rows, mask=rows < R, other=0.0)
            hat = tl.where(inside, hat - mean[:, None], 0.0)
        hat = hat * rstd[:, None]
        grad_weight += tl.sum(grad * hat, 0)
        if CENTRED:
            grad_bias += tl.sum(grad, 0)
        grad = grad * weight[None, :]
        projected = tl.sum(grad * hat, 1) / D
        grad_x = grad - hat * projected[:, None]
        if CENTRED:
            grad_x -= (tl.sum(grad, 1) / D)[:, None]
        grad_x = grad_x * rstd[:, None]
        if GRAD_TOTAL:
            grad_x += tl.load(grad_total_ptr + offsets, mask=inside, other=0.0).to(tl.float32)
        tl.store(grad_residual_ptr + offsets, grad_x.to(grad_residual_ptr.dtype.element_ty), mask=inside)
        if DROPOUT:
            kept = keep_tile(row_key(seed_ptr, rows), tl.arange(0, WIDTH // 4), threshold)
            grad_x = tl.where(kept, grad_x * scale, 0.0)
            tl.store(grad_x_ptr + offsets, grad_x.to(grad_x_ptr.dtype.element_ty), mask=inside)
    own = tl.program_id(0).to(tl.int64) * D + columns
    tl.store(grad_weight_ptr + own, grad_weight, mask=columns < D)
    if CENTRED:
        tl.store(grad_bias_ptr + own, grad_bias, mask=columns < D)
