"""Log-sum-exp of similarities of each query with all keys; the similarities are never in memory.

Shapes: M queries, N keys, D width, S parts of a loop. Similarities are in powers of two: ``scale`` is log2(e) over the
temperature.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOWERED: tl.constexpr = tl.constexpr(-1e9)  # of a masked key; finite, so that rows without any key stay finite


@triton.jit
def similarities(own_ptr, other_ptr, own, other, own_rows, other_rows, D, scale, BLOCK_OWN: tl.constexpr,
                 BLOCK_OTHER: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """Scaled dot products (own, other)."""
    s = tl.zeros([BLOCK_OWN, BLOCK_OTHER], tl.float32)
    for d0 in range(0, D, DEPTH):
        d = d0 + tl.arange(0, DEPTH)
        x = tl.load(own_ptr + own.to(tl.int64)[:, None] * D + d[None, :],
                    mask=(own < own_rows)[:, None] & (d < D)[None, :], other=0.0)  # fmt: skip
        y = tl.load(other_ptr + other.to(tl.int64)[:, None] * D + d[None, :],
                    mask=(other < other_rows)[:, None] & (d < D)[None, :], other=0.0)  # fmt: skip
        s = tl.dot(x, tl.trans(y), s, input_precision=PRECISION)
    return s * scale


@triton.jit
def similarity_lse_forward(
    query_ptr,
    key_ptr,
    mask_ptr,
    lse_ptr,
    M,
    N,
    D,
    scale,
    MASK: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    DEPTH: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Partial log-sum-exps (S, M): program (block, s) of S reads every S-th block of keys."""
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    peak = tl.full([BLOCK_M], -float("inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    for block in range(tl.program_id(1), tl.cdiv(N, BLOCK_N), tl.num_programs(1)):
        n = block * BLOCK_N + tl.arange(0, BLOCK_N)
        s = similarities(query_ptr, key_ptr, m, n, M, N, D, scale, BLOCK_M, BLOCK_N, DEPTH, PRECISION)
        if MASK:
            s += tl.where(tl.load(mask_ptr + n, mask=n < N, other=0) != 0, 0.0, LOWERED)[None, :]
        s = tl.where((n < N)[None, :], s, -float("inf"))
        higher = tl.maximum(peak, tl.max(s, 1))
        total = total * tl.math.exp2(peak - higher) + tl.sum(tl.math.exp2(s - higher[:, None]), 1)
        peak = higher
    tl.store(lse_ptr + tl.program_id(1).to(tl.int64) * M + m, peak + tl.math.log2(total), mask=m < M)


@triton.jit
def similarity_lse_gradient(
    own_ptr,
    other_ptr,
    mask_ptr,
    lse_ptr,
    grad_lse_ptr,
    grad_own_ptr,
    own_rows,
    other_rows,
    D,
    scale,
    QUERIES: tl.constexpr,
    MASK: tl.constexpr,
    BLOCK_OWN: tl.constexpr,
    BLOCK_OTHER: tl.constexpr,
    DEPTH: tl.constexpr,
    WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Partial gradients (S, own_rows, D), without the factor of the temperature.

    ``own`` are the queries (QUERIES) or the keys; the other rows are the other ones. The softmax weight of a pair times
    the gradient of its query's log-sum-exp is the weight of the other row.
    """
    own = tl.program_id(0) * BLOCK_OWN + tl.arange(0, BLOCK_OWN)
    d = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    if QUERIES:
        lse_own = tl.load(lse_ptr + own, mask=own < own_rows, other=float("inf"))
        grad_lse_own = tl.load(grad_lse_ptr + own, mask=own < own_rows, other=0.0)
    elif MASK:
        low_own = tl.where(tl.load(mask_ptr + own, mask=own < own_rows, other=0) != 0, 0.0, LOWERED)
    acc = tl.zeros([BLOCK_OWN, WIDTH], tl.float32)
    for block in range(tl.program_id(2), tl.cdiv(other_rows, BLOCK_OTHER), tl.num_programs(2)):
        other = block * BLOCK_OTHER + tl.arange(0, BLOCK_OTHER)
        s = similarities(own_ptr, other_ptr, own, other, own_rows, other_rows, D, scale, BLOCK_OWN, BLOCK_OTHER, DEPTH,
                         PRECISION)  # fmt: skip
        if QUERIES:
            if MASK:
                s += tl.where(tl.load(mask_ptr + other, mask=other < other_rows, other=0) != 0, 0.0, LOWERED)[None, :]
            s = tl.where((other < other_rows)[None, :], s, -float("inf"))
            weights = tl.math.exp2(s - lse_own[:, None]) * grad_lse_own[:, None]
        else:
            if MASK:
                s += low_own[:, None]
            # Rows beyond the queries: an infinite log-sum-exp makes their weights 0.
            lse = tl.load(lse_ptr + other, mask=other < other_rows, other=float("inf"))
            grad_lse = tl.load(grad_lse_ptr + other, mask=other < other_rows, other=0.0)
            weights = tl.math.exp2(s - lse[None, :]) * grad_lse[None, :]
        y = tl.load(other_ptr + other.to(tl.int64)[:, None] * D + d[None, :],
                    mask=(other < other_rows)[:, None] & (d < D)[None, :], other=0.0)  # fmt: skip
        acc = tl.dot(weights.to(y.dtype), y, acc, input_precision=PRECISION)
    target = grad_own_ptr + (tl.program_id(2).to(tl.int64) * own_rows + own.to(tl.int64)[:, None]) * D + d[None, :]
    tl.store(target, acc, mask=(own < own_rows)[:, None] & (d < D)[None, :])
