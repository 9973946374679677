"""Bias, exact GELU and dropout in one pass, alone or behind a matrix product, and their backward pass.

Shapes: R rows, D width, M inner width, G programs that share the rows. Every tensor is contiguous.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..triton_dropout import ASSEMBLY, keep_pairs, keep_tile, row_key

SQRT_HALF: tl.constexpr = tl.constexpr(0.7071067811865476)
LOG2E: tl.constexpr = tl.constexpr(1.4426950408889634)
INVERSE_SQRT_TWO_PI: tl.constexpr = tl.constexpr(0.3989422804014327)


@triton.jit
def reciprocal(x):
    """1 / x for normal numbers: one instruction, where a division spends six on numbers near the ends of the range."""
    if ASSEMBLY:
        return tl.inline_asm_elementwise(
            "rcp.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
        )
    else:
        return 1.0 / x


@triton.jit
def normal(x, EXACT: tl.constexpr):
    """Phi(x), the distribution function of the standard normal, and phi(x), its density; the exact GELU is x Phi(x).

    EXACT, for float32: the error function of the library. Otherwise erf by Abramowitz and Stegun's formula 7.1.26, of
    error 1.5e-7, far below the rounding of a half type: its exponential is that of the density.
    """
    power = tl.math.exp2(x * x * (-0.5 * LOG2E))
    if EXACT:
        upper = 0.5 + 0.5 * tl.math.erf(x * SQRT_HALF)
    else:
        t = reciprocal(1.0 + 0.3275911 * SQRT_HALF * tl.abs(x))
        series = t * (0.127414796 + t * (-0.142248368 + t * (0.7107068705 + t * (-0.7265760135 + t * 0.5307027145))))
        tail = series * power
        upper = tl.where(x < 0, tail, 1.0 - tail)
    return upper, power * INVERSE_SQRT_TWO_PI


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
    BLOCKS: tl.constexpr,
):
    """dropout(gelu(x + bias)). A program: a tile of rows, and BLOCKS blocks of columns that share their keys."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    keys = tl.zeros([ROWS], tl.uint32)
    if DROPOUT:
        keys = row_key(seed_ptr, rows)
    first = tl.program_id(1) * (BLOCKS * COLUMNS)
    for c0 in range(first, tl.minimum(first + BLOCKS * COLUMNS, M), COLUMNS):
        columns = c0 + tl.arange(0, COLUMNS)
        inside = (rows < R)[:, None] & (columns < M)[None, :]
        offsets = rows.to(tl.int64)[:, None] * M + columns[None, :]
        x = tl.load(x_ptr + offsets, mask=inside, other=0.0).to(tl.float32)
        if BIAS:
            x += tl.load(bias_ptr + columns, mask=columns < M, other=0.0).to(tl.float32)[None, :]
        upper, _ = normal(x, out_ptr.dtype.element_ty == tl.float32)
        out = x * upper
        if DROPOUT:
            out = tl.where(keep_tile(keys, c0 // 4 + tl.arange(0, COLUMNS // 4), threshold), out * scale, 0.0)
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
    groups = tl.program_id(1) * (COLUMNS // 4) + tl.arange(0, COLUMNS // 4)
    acc = tl.zeros([ROWS, COLUMNS], tl.float32)
    for tile in range(tl.program_id(0), tl.cdiv(R, ROWS), tl.num_programs(0)):
        rows = tile * ROWS + tl.arange(0, ROWS)
        inside = (rows < R)[:, None] & (columns < M)[None, :]
        offsets = rows.to(tl.int64)[:, None] * M + columns[None, :]
        x = tl.load(x_ptr + offsets, mask=inside, other=0.0).to(tl.float32) + bias[None, :]
        grad = tl.load(grad_out_ptr + offsets, mask=inside, other=0.0).to(tl.float32)
        if DROPOUT:
            kept = keep_tile(row_key(seed_ptr, rows), groups, threshold)
            grad = tl.where(kept, grad * scale, 0.0)
        upper, density = normal(x, grad_x_ptr.dtype.element_ty == tl.float32)
        grad = grad * (upper + x * density)
        tl.store(grad_x_ptr + offsets, grad.to(grad_x_ptr.dtype.element_ty), mask=inside)
        acc += grad  # over the rows of a tile behind the loop: that takes shared memory and barriers
    if BIAS:
        tl.store(grad_bias_ptr + tl.program_id(0).to(tl.int64) * M + columns, tl.sum(acc, 0), mask=columns < M)


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
    upper, _ = normal(out, kind == tl.float32)
    out = out * upper
    if DROPOUT:
        pairs = within // height * (BLOCK_M // 2) + tl.arange(0, BLOCK_M // 2)
        out = tl.where(keep_pairs(row_key(seed_ptr, r), pairs, threshold), out * scale, 0.0)
    tl.store(out_ptr + offsets, out.to(kind), mask=inside)
