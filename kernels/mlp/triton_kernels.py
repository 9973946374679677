"""Bias, exact GELU and dropout in one pass, alone or behind a matrix product, and their backward pass.

Shapes: R rows, D width, M inner width, G programs that share the rows. Every tensor is contiguous.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..triton_dropout import keep, row_key

SQRT_HALF: tl.constexpr = tl.constexpr(0.7071067811865476)
INVERSE_SQRT_TWO_PI: tl.constexpr = tl.constexpr(0.3989422804014327)


@triton.jit
def normal_cdf(x):
    """Phi(x), the distribution function of the standard normal; the exact GELU is x Phi(x)."""
    return 0.5 * (1.0 + tl.math.erf(x * SQRT_HALF))


@triton.jit
def bias_gelu_forward(
    x_ptr,  # (R, M)
    bias_ptr,  # (M,), or None without BIAS
    seed_ptr,  # (1,) int64, or None without DROPOUT
    out_ptr,  # (R, M), written
    R,
    M,
    threshold,  # of the dropout, see `dropout.threshold`
    scale,  # of what it keeps
    BIAS: tl.constexpr,
    DROPOUT: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """dropout(gelu(x + bias)). A program: a tile of rows and columns."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = (rows < R)[:, None] & (columns < M)[None, :]
    offsets = rows.to(tl.int64)[:, None] * M + columns[None, :]
    x = tl.load(x_ptr + offsets, mask=inside, other=0.0).to(tl.float32)
    if BIAS:
        x += tl.load(bias_ptr + columns, mask=columns < M, other=0.0).to(tl.float32)[None, :]
    out = x * normal_cdf(x)
    if DROPOUT:
        out = tl.where(keep(row_key(seed_ptr, rows)[:, None], columns[None, :], threshold), out * scale, 0.0)
    tl.store(out_ptr + offsets, out.to(out_ptr.dtype.element_ty), mask=inside)


# Backward. With y = x + b, out = c z y Phi(y), where the dropout mask z is 0 or 1 and c = 1 / (1 - its rate):
#
#     dx = c z dout (Phi(y) + y phi(y)), where phi(y) = exp(-y^2 / 2) / sqrt(2 pi) is the derivative of Phi
#     db = sum over rows of dx
#
# The mask is drawn again from the seed. The gradients of the products around it are left to cuBLAS.


@triton.jit
def bias_gelu_backward(
    grad_out_ptr,  # (R, M)
    x_ptr,  # (R, M)
    bias_ptr,  # (M,), or None without BIAS
    seed_ptr,  # (1,) int64, or None without DROPOUT
    grad_x_ptr,  # (R, M), written
    grad_bias_ptr,  # (G, M) float32, written with BIAS
    R,
    M,
    threshold,
    scale,
    BIAS: tl.constexpr,
    DROPOUT: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """dx, and partial sums of db: program (g, block of columns) of G takes every G-th tile of rows."""
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    bias = tl.zeros([COLUMNS], tl.float32)
    if BIAS:
        bias = tl.load(bias_ptr + columns, mask=columns < M, other=0.0).to(tl.float32)
    acc = tl.zeros([COLUMNS], tl.float32)
    for tile in range(tl.program_id(0), tl.cdiv(R, ROWS), tl.num_programs(0)):
        rows = tile * ROWS + tl.arange(0, ROWS)
        inside = (rows < R)[:, None] & (columns < M)[None, :]
        offsets = rows.to(tl.int64)[:, None] * M + columns[None, :]
        x = tl.load(x_ptr + offsets, mask=inside, other=0.0).to(tl.float32) + bias[None, :]
        grad = tl.load(grad_out_ptr + offsets, mask=inside, other=0.0).to(tl.float32)
        if DROPOUT:
            grad = tl.where(keep(row_key(seed_ptr, rows)[:, None], columns[None, :], threshold), grad * scale, 0.0)
        grad = grad * (normal_cdf(x) + x * INVERSE_SQRT_TWO_PI * tl.exp(-0.5 * x * x))
        tl.store(grad_x_ptr + offsets, grad.to(grad_x_ptr.dtype.element_ty), mask=inside)
        acc += tl.sum(grad, 0)
    if BIAS:
        tl.store(grad_bias_ptr + tl.program_id(0).to(tl.int64) * M + columns, acc, mask=columns < M)


@triton.jit
def linear_gelu_forward(
    x_ptr,  # (R, D)
    weight_ptr,  # (M, D)
    bias_ptr,  # (M,), or None without BIAS
    seed_ptr,  # (1,) int64, or None without DROPOUT
    product_ptr,  # (R, M), written
    out_ptr,  # (R, M), written
    R,
    D,
    M,
    threshold,
    scale,
    BIAS: tl.constexpr,
    DROPOUT: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
    GROUP: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """x W^T, for the backward pass, and dropout(gelu(x W^T + b)) from the same accumulators. A program: a tile."""
    # GROUP blocks of rows at a time, column block by column block, so that both operands stay in the L2 cache.
    down, across = tl.cdiv(R, BLOCK_R), tl.cdiv(M, BLOCK_M)
    group = tl.program_id(0) // (GROUP * across)
    height = tl.minimum(down - group * GROUP, GROUP)
    within = tl.program_id(0) % (GROUP * across)
    r = (group * GROUP + within % height) * BLOCK_R + tl.arange(0, BLOCK_R)
    m = within // height * BLOCK_M + tl.arange(0, BLOCK_M)
    acc = tl.zeros([BLOCK_R, BLOCK_M], tl.float32)
    for d0 in range(0, D, BLOCK_D):
        d = d0 + tl.arange(0, BLOCK_D)
        x = tl.load(
            x_ptr + r.to(tl.int64)[:, None] * D + d[None, :], mask=(r < R)[:, None] & (d < D)[None, :], other=0.0
        )
        w = tl.load(weight_ptr + m[:, None] * D + d[None, :], mask=(m < M)[:, None] & (d < D)[None, :], other=0.0)
        acc = tl.dot(x, tl.trans(w), acc, input_precision=PRECISION)
    inside = (r < R)[:, None] & (m < M)[None, :]
    offsets = r.to(tl.int64)[:, None] * M + m[None, :]
    kind = out_ptr.dtype.element_ty
    tl.store(product_ptr + offsets, acc.to(kind), mask=inside)
    # From the rounded product, as the backward pass reads it.
    out = acc.to(kind).to(tl.float32)
    if BIAS:
        out += tl.load(bias_ptr + m, mask=m < M, other=0.0).to(tl.float32)[None, :]
    out = out * normal_cdf(out)
    if DROPOUT:
        out = tl.where(keep(row_key(seed_ptr, r)[:, None], m[None, :], threshold), out * scale, 0.0)
    tl.store(out_ptr + offsets, out.to(kind), mask=inside)
