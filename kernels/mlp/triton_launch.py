"""Launches the MLP kernels. Shapes: R rows, D width, M inner width, G programs that share the rows."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from .. import dropout
from ..runtime import family_of, launch
from . import blocks
from .triton_kernels import bias_gelu_backward, bias_gelu_forward, linear_gelu_forward


def forward(x: Tensor, bias: Tensor | None, seed: Tensor | None, p: float) -> Tensor:
    """dropout(gelu(x + bias)) of (R, M)."""
    R, M = x.shape
    out = torch.empty_like(x)
    block = blocks.elements(family_of(x), R, M)
    grid = (triton.cdiv(R, block.rows), triton.cdiv(M, block.columns))
    options = dict(BIAS=bias is not None, DROPOUT=p > 0, ROWS=block.rows, COLUMNS=block.columns)
    rates = dropout.threshold(p), dropout.keep_scale(p)
    launch(bias_gelu_forward, grid, x, bias, seed, out, R, M, *rates, **options, num_warps=block.warps)
    return out


def backward(grad_out: Tensor, x: Tensor, bias: Tensor | None, seed: Tensor | None, p: float) -> tuple[Tensor, Tensor]:
    """Gradient of x (R, M), and partial sums (G, M) of the bias gradient (empty without a bias)."""
    R, M = x.shape
    family = family_of(x)
    block = blocks.elements(family, R, M)
    across = triton.cdiv(M, block.columns)
    programs = blocks.programs(family, across, triton.cdiv(R, block.rows))
    grad_x = torch.empty_like(x)
    grad_bias = x.new_empty(programs if bias is not None else 0, M, dtype=torch.float32)
    launch(
        bias_gelu_backward,
        (programs, across),
        grad_out,
        x,
        bias,
        seed,
        grad_x,
        grad_bias,
        R,
        M,
        dropout.threshold(p),
        dropout.keep_scale(p),
        BIAS=bias is not None,
        DROPOUT=p > 0,
        ROWS=block.rows,
        COLUMNS=block.columns,
        num_warps=block.warps,
    )
    return grad_x, grad_bias


def linear_forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, seed: Tensor | None, p: float
) -> tuple[Tensor, Tensor]:
    """dropout(gelu(x W^T + b)) and x W^T, both (R, M)."""
    R, D = x.shape
    M = weight.shape[0]
    out, product = x.new_empty(R, M), x.new_empty(R, M)
    block = blocks.product(family_of(x), x.dtype == torch.float32, R, M, D)
    launch(
        linear_gelu_forward,
        (triton.cdiv(R, block.rows) * triton.cdiv(M, block.columns),),
        x,
        weight,
        bias,
        seed,
        product,
        out,
        R,
        D,
        M,
        dropout.threshold(p),
        dropout.keep_scale(p),
        BIAS=bias is not None,
        DROPOUT=p > 0,
        BLOCK_R=block.rows,
        BLOCK_M=block.columns,
        BLOCK_D=block.depth,
        GROUP=8,
        PRECISION="tf32x3",
        num_warps=block.warps,
        num_stages=block.stages,
    )
    return out, product
