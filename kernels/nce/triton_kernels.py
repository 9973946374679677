"""Log-sum-exp of similarities of each row with all rows of the other side; the similarities are never in memory.

Shapes: M queries, N keys, D width, S parts of a loop. Every tensor is contiguous. Similarities are in powers of two:
s_mn = scale q_m . k_n, where ``scale`` is log2(e) over the temperature. A log-sum-exp in memory is a natural one.

Masked rows have an offset of LOWERED (launcher), which is finite, so that a row that sees none stays finite.

HELD: a program loads its own rows once, in their whole width (DEPTH >= D), and each block of the other rows once, for
both products of the backward pass. Without it, products run in steps of DEPTH, for any width and for float32.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2E: tl.constexpr = tl.constexpr(1.4426950408889634)
LN2: tl.constexpr = tl.constexpr(0.6931471805599453)


@triton.jit
def load_rows(ptr, row, rows, D, d):
    """The columns ``d`` of the rows ``row``; 0 beyond the ends."""
    return tl.load(ptr + row.to(tl.int64)[:, None] * D + d[None, :], mask=(row < rows)[:, None] & (d < D)[None, :],
                   other=0.0)  # fmt: skip


@triton.jit
def dot_products(own_ptr, other_ptr, own, other, own_rows, other_rows, D, BLOCK_OWN: tl.constexpr,
                 BLOCK_OTHER: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """Dot products (own, other), in steps of DEPTH."""
    s = tl.zeros([BLOCK_OWN, BLOCK_OTHER], tl.float32)
    for d0 in range(0, D, DEPTH):
        d = d0 + tl.arange(0, DEPTH)
        x = load_rows(own_ptr, own, own_rows, D, d)
        y = load_rows(other_ptr, other, other_rows, D, d)
        s = tl.dot(x, tl.trans(y), s, input_precision=PRECISION)
    return s


@triton.jit
def load_offsets(ptr, row, rows, MASK: tl.constexpr):
    """What is added to the similarities with ``row``, -inf beyond the end."""
    if MASK:
        return tl.load(ptr + row, mask=row < rows, other=-float("inf"))
    else:
        return tl.where(row < rows, 0.0, -float("inf"))


# Forward, for a query m, over blocks of keys n: m_ij = max(m_i, max_n s_mn), the running maximum, and
# l_i = 2^(m_i - m_ij) l_i + sum_n 2^(s_mn - m_ij). In the end lse_m = m_i + log2 l_i. The log-sum-exp of a key over the
# queries of a program is whole after one block, since a program keeps its queries.


@triton.jit
def similarity_lse_forward(
    query_ptr,  # (M, D)
    key_ptr,  # (N, D)
    query_offset_ptr,  # (M,) float32, added where a key sees the query; None without QUERY_MASK
    key_offset_ptr,  # (N,) float32, added where a query sees the key; None without KEY_MASK
    query_lse_ptr,  # (S, M) float32, written
    key_lse_ptr,  # (blocks of queries, N) float32, written; None without KEYS
    M,
    N,
    D,
    scale,
    KEYS: tl.constexpr,
    QUERY_MASK: tl.constexpr,
    KEY_MASK: tl.constexpr,
    HELD: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    DEPTH: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Partial log-sum-exps of the queries: program (block, s) of S reads every S-th block of keys. With KEYS also those
    of the keys over the queries of the block."""
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    d = tl.arange(0, DEPTH)
    if HELD:
        x = load_rows(query_ptr, m, M, D, d)
    if KEYS:
        low_m = load_offsets(query_offset_ptr, m, M, QUERY_MASK)
        key_lse_ptr += tl.program_id(0).to(tl.int64) * N
    m_i = tl.full([BLOCK_M], -float("inf"), tl.float32)
    l_i = tl.zeros([BLOCK_M], tl.float32)
    for start in range(tl.program_id(1) * BLOCK_N, N, tl.num_programs(1) * BLOCK_N):
        n = start + tl.arange(0, BLOCK_N)
        if HELD:
            s = tl.dot(x, tl.trans(load_rows(key_ptr, n, N, D, d)), input_precision=PRECISION)
        else:
            s = dot_products(query_ptr, key_ptr, m, n, M, N, D, BLOCK_M, BLOCK_N, DEPTH, PRECISION)
        t = s * scale + load_offsets(key_offset_ptr, n, N, KEY_MASK)[None, :]
        m_ij = tl.maximum(m_i, tl.max(t, 1))
        l_i = l_i * tl.math.exp2(m_i - m_ij) + tl.sum(tl.math.exp2(t - m_ij[:, None]), 1)
        m_i = m_ij
        if KEYS:
            t = s * scale + low_m[:, None]
            peak = tl.max(t, 0)
            total = tl.sum(tl.math.exp2(t - peak[None, :]), 0)
            tl.store(key_lse_ptr + n, (peak + tl.math.log2(total)) * LN2, mask=n < N)
    tl.store(query_lse_ptr + tl.program_id(1).to(tl.int64) * M + m, (m_i + tl.math.log2(l_i)) * LN2, mask=m < M)


@triton.jit
def combine_lse(
    partial_ptr,  # (S, R) float32
    lse_ptr,  # (R,) float32, written
    S,
    R,
    BLOCK: tl.constexpr,
):
    """The log-sum-exp of the partial ones of each row, in their order."""
    r = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    m_i = tl.full([BLOCK], -float("inf"), tl.float32)
    l_i = tl.zeros([BLOCK], tl.float32)
    for _ in range(0, S):
        t = tl.load(partial_ptr + r, mask=r < R, other=0.0) * LOG2E
        m_ij = tl.maximum(m_i, t)
        l_i = l_i * tl.math.exp2(m_i - m_ij) + tl.math.exp2(t - m_ij)
        m_i = m_ij
        partial_ptr += R
    tl.store(lse_ptr + r, (m_i + tl.math.log2(l_i)) * LN2, mask=r < R)


# Backward. The natural log-sum-exp of query m has the softmax weights 2^(s_mn - lse_m) as its derivative by
# q_m . k_n / temperature, and that of key n has 2^(s_mn - lse_n). So with their gradients g_m and g_n
#
#     w_mn = g_m 2^(s_mn - lse_m) + g_n 2^(s_mn - lse_n),
#     dq_m = sum_n w_mn k_n / temperature,    dk_n = sum_m w_mn q_m / temperature.
#
# Both are sums over the rows of the other side, so one kernel makes either; the similarities are computed again.


@triton.jit
def similarity_lse_gradient(
    own_ptr,  # (own_rows, D): queries or keys
    other_ptr,  # (other_rows, D): the other ones
    own_offset_ptr,  # (own_rows,) float32, added where another row sees it; None without OWN_MASK
    other_offset_ptr,  # (other_rows,) float32; None without OTHER_MASK
    own_lse_ptr,  # (own_rows,) float32, over the other rows; None without OWN
    own_grad_lse_ptr,  # (own_rows,) float32, g; None without OWN
    other_lse_ptr,  # (other_rows,) float32, over the own rows; None without OTHER
    other_grad_lse_ptr,  # (other_rows,) float32; None without OTHER
    unit_ptr,  # (1,) float32, what the result is multiplied with, too; None without UNIT
    grad_own_ptr,  # (S, own_rows, D), written
    own_rows,
    other_rows,
    D,
    scale,
    factor,
    UNIT: tl.constexpr,
    OWN: tl.constexpr,
    OTHER: tl.constexpr,
    OWN_MASK: tl.constexpr,
    OTHER_MASK: tl.constexpr,
    HELD: tl.constexpr,
    BLOCK_OWN: tl.constexpr,
    BLOCK_OTHER: tl.constexpr,
    DEPTH: tl.constexpr,
    WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Partial gradients times ``factor``: program (block of rows, part of the width, s) of S reads every S-th block of
    the other rows."""
    own = tl.program_id(0) * BLOCK_OWN + tl.arange(0, BLOCK_OWN)
    d = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    if HELD:
        x = load_rows(own_ptr, own, own_rows, D, d)
    if OWN:
        lse_own = tl.load(own_lse_ptr + own, mask=own < own_rows, other=float("inf")) * LOG2E
        grad_own = tl.load(own_grad_lse_ptr + own, mask=own < own_rows, other=0.0)
    if OTHER:
        low_own = load_offsets(own_offset_ptr, own, own_rows, OWN_MASK)
    acc = tl.zeros([BLOCK_OWN, WIDTH], tl.float32)
    # In this form: with block numbers as the variable ptxas serializes the wgmma instructions of sm_90.
    for start in range(tl.program_id(2) * BLOCK_OTHER, other_rows, tl.num_programs(2) * BLOCK_OTHER):
        other = start + tl.arange(0, BLOCK_OTHER)
        y = load_rows(other_ptr, other, other_rows, D, d)
        if HELD:
            s = tl.dot(x, tl.trans(y), input_precision=PRECISION)
        else:
            s = dot_products(own_ptr, other_ptr, own, other, own_rows, other_rows, D, BLOCK_OWN, BLOCK_OTHER, DEPTH,
                             PRECISION)  # fmt: skip
        s *= scale
        if OWN:
            # Rows beyond the end are zeros in y; they only must not make a NaN, and lse_own is finite.
            t = s
            if OTHER_MASK:
                t += load_offsets(other_offset_ptr, other, other_rows, OTHER_MASK)[None, :]
            weights = tl.math.exp2(t - lse_own[:, None]) * grad_own[:, None]
        if OTHER:
            t = s
            if OWN_MASK:
                t += low_own[:, None]
            # An infinite log-sum-exp makes the weights of rows beyond the end 0.
            lse = tl.load(other_lse_ptr + other, mask=other < other_rows, other=float("inf")) * LOG2E
            grad = tl.load(other_grad_lse_ptr + other, mask=other < other_rows, other=0.0)
            far = tl.math.exp2(t - lse[None, :]) * grad[None, :]
            if OWN:
                weights += far
            else:
                weights = far
        acc = tl.dot(weights.to(y.dtype), y, acc, input_precision=PRECISION)
    if UNIT:
        factor *= tl.load(unit_ptr)
    target = grad_own_ptr + (tl.program_id(2).to(tl.int64) * own_rows + own.to(tl.int64)[:, None]) * D + d[None, :]
    acc = (acc * factor).to(grad_own_ptr.dtype.element_ty)
    tl.store(target, acc, mask=(own < own_rows)[:, None] & (d < D)[None, :])
