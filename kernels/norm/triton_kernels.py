"""Residual sum, dropout and norm in one pass over the rows, and their backward pass.

Shapes: R rows, D width, G programs of the backward pass.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import dropout
from ..runtime import family_of, launch
from ..triton_dropout import keep, row_key
from . import blocks


@triton.jit
def norm_forward(
    x_ptr,
    residual_ptr,
    weight_ptr,
    bias_ptr,
    seed_ptr,
    total_ptr,
    normed_ptr,
    mean_ptr,
    rstd_ptr,
    R,
    D,
    eps,
    threshold,
    scale,
    RESIDUAL: tl.constexpr,
    CENTRED: tl.constexpr,
    DROPOUT: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, WIDTH)
    inside = (rows < R)[:, None] & (columns < D)[None, :]
    offsets = rows.to(tl.int64)[:, None] * D + columns[None, :]
    total = tl.load(x_ptr + offsets, mask=inside, other=0.0)
    if DROPOUT:
        kept = keep(row_key(seed_ptr, rows)[:, None], columns[None, :], threshold)
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


@triton.jit
def norm_backward(
    grad_total_ptr,
    grad_normed_ptr,
    total_ptr,
    weight_ptr,
    mean_ptr,
    rstd_ptr,
    seed_ptr,
    grad_residual_ptr,
    grad_x_ptr,
    grad_weight_ptr,
    grad_bias_ptr,
    R,
    D,
    threshold,
    scale,
    GRAD_TOTAL: tl.constexpr,
    CENTRED: tl.constexpr,
    DROPOUT: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Each program walks over tiles of rows and keeps its own sums for weight and bias, (G, D): no atomics."""
    columns = tl.arange(0, WIDTH)
    weight = tl.load(weight_ptr + columns, mask=columns < D, other=0.0).to(tl.float32)
    grad_weight = tl.zeros([WIDTH], tl.float32)
    grad_bias = tl.zeros([WIDTH], tl.float32)
    for tile in range(tl.program_id(0), tl.cdiv(R, ROWS), tl.num_programs(0)):
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
            kept = keep(row_key(seed_ptr, rows)[:, None], columns[None, :], threshold)
            grad_x = tl.where(kept, grad_x * scale, 0.0)
            tl.store(grad_x_ptr + offsets, grad_x.to(grad_x_ptr.dtype.element_ty), mask=inside)
    own = tl.program_id(0).to(tl.int64) * D + columns
    tl.store(grad_weight_ptr + own, grad_weight, mask=columns < D)
    if CENTRED:
        tl.store(grad_bias_ptr + own, grad_bias, mask=columns < D)


def forward(
    x_RD: Tensor,
    residual_RD: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    seed: Tensor | None,
    eps: float,
    p: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """total (R, D), or empty without a residual; normed (R, D); mean (R,), or empty for RMS; rstd (R,)."""
    R, D = x_RD.shape
    total = torch.empty_like(x_RD) if residual_RD is not None else x_RD.new_empty(0)
    normed = torch.empty_like(x_RD)
    mean = x_RD.new_empty(R if bias is not None else 0, dtype=torch.float32)
    rstd = x_RD.new_empty(R, dtype=torch.float32)
    block = blocks.forward(family_of(x_RD), D, R)
    launch(
        norm_forward,
        (triton.cdiv(R, block.rows),),
        x_RD,
        residual_RD,
        weight,
        bias,
        seed,
        total,
        normed,
        mean,
        rstd,
        R,
        D,
        eps,
        dropout.threshold(p),
        dropout.keep_scale(p),
        RESIDUAL=residual_RD is not None,
        CENTRED=bias is not None,
        DROPOUT=p > 0,
        ROWS=block.rows,
        WIDTH=triton.next_power_of_2(D),
        num_warps=block.warps,
    )
    return total, normed, mean, rstd


def backward(
    grad_total_RD: Tensor | None,
    grad_normed_RD: Tensor,
    total_RD: Tensor,
    weight: Tensor,
    mean: Tensor | None,
    rstd: Tensor,
    seed: Tensor | None,
    p: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the residual and of x (empty without dropout: the same), partial sums (G, D) of weight and bias."""
    R, D = total_RD.shape
    block = blocks.backward(family_of(total_RD), D, R)
    programs = min(block.programs, triton.cdiv(R, block.rows))
    grad_residual = torch.empty_like(total_RD)
    grad_x = torch.empty_like(total_RD) if p > 0 else total_RD.new_empty(0)
    grad_weight = rstd.new_empty(programs, D)
    grad_bias = rstd.new_empty(programs if mean is not None else 0, D)
    launch(
        norm_backward,
        (programs,),
        grad_total_RD,
        grad_normed_RD,
        total_RD,
        weight,
        mean,
        rstd,
        seed,
        grad_residual,
        grad_x,
        grad_weight,
        grad_bias,
        R,
        D,
        dropout.threshold(p),
        dropout.keep_scale(p),
        GRAD_TOTAL=grad_total_RD is not None,
        CENTRED=mean is not None,
        DROPOUT=p > 0,
        ROWS=block.rows,
        WIDTH=triton.next_power_of_2(D),
        num_warps=block.warps,
    )
    return grad_residual, grad_x, grad_weight, grad_bias
