"""Log-sum-exp of similarities of each query with all keys; the similarities are never in memory.

Shapes: M queries, N keys, D width, S parts of a loop. Every tensor is contiguous. Similarities are in powers of two:
s_mn = scale q_m . k_n, where ``scale`` is log2(e) over the temperature.

Forward, for a query m, over blocks of keys n: m_ij = max(m_i, max_n s_mn), the running maximum, and
l_i = 2^(m_i - m_ij) l_i + sum_n 2^(s_mn - m_ij). In the end lse_m = m_i + log2 l_i.
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
    query_ptr,  # (M, D)
    key_ptr,  # (N, D)
    mask_ptr,  # (N,) uint8, 0 for a key that is not there; None without MASK
    lse_ptr,  # (S, M) float32, written
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
    """Partial log-sum-exps: program (block, s) of S reads every S-th block of keys."""
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    m_i = tl.full([BLOCK_M], -float("inf"), tl.float32)
    l_i = tl.zeros([BLOCK_M], tl.float32)
    for block in range(tl.program_id(1), tl.cdiv(N, BLOCK_N), tl.num_programs(1)):
        n = block * BLOCK_N + tl.arange(0, BLOCK_N)
        s = similarities(query_ptr, key_ptr, m, n, M, N, D, scale, BLOCK_M, BLOCK_N, DEPTH, PRECISION)
        if MASK:
            s += tl.where(tl.load(mask_ptr + n, mask=n < N, other=0) != 0, 0.0, LOWERED)[None, :]
        s = tl.where((n < N)[None, :], s, -float("inf"))
        m_ij = tl.maximum(m_i, tl.max(s, 1))
        l_i = l_i * tl.math.exp2(m_i - m_ij) + tl.sum(tl.math.exp2(s - m_ij[:, None]), 1)
        m_i = m_ij
    tl.store(lse_ptr + tl.program_id(1).to(tl.int64) * M + m, m_i + tl.math.log2(l_i), mask=m < M)


# Backward. The natural log-sum-exp L_m = ln 2 lse_m has the softmax weights w_mn = 2^(s_mn - lse_m) as its derivative
# by q_m . k_n / temperature, so with its gradient dL:
#
#     dq_m = sum_n dL_m w_mn k_n / temperature
#     dk_n = sum_m dL_m w_mn q_m / temperature
#
# Both are sums over the rows of the other side, so one kernel makes either; the similarities are computed again.


@triton.jit
def similarity_lse_gradient(
    own_ptr,  # (own_rows, D): queries if QUERIES, keys otherwise
    other_ptr,  # (other_rows, D): the other ones
    mask_ptr,  # (N,) uint8, over the keys; None without MASK
    lse_ptr,  # (M,) float32, in powers of two
    grad_lse_ptr,  # (M,) float32, dL
    grad_own_ptr,  # (S, own_rows, D) float32, written
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
    """Partial gradients, still to be divided by the temperature: program (block of rows, part of the width, s) of S
    reads every S-th block of the other rows."""
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
