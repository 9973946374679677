"""Flash attention: softmax over blocks of keys, without the scores in memory. After FlashAttention-2 (Dao, 2023).

Shapes: T tokens of all sequences, H heads, E head dim, N tokens of one sequence. Every tensor is contiguous. A program
of a tiled kernel works on one block of tokens of one sequence and one head; ``tiles`` says which.

Forward, for a row i, over blocks of keys j. Scores are in powers of two, s_ij = log2(e) (scale q_i . k_j + bias_ij), so
that 2^s_ij, which a GPU computes in one instruction, is the exponential of the usual score:

    m_ij  = max(m_i, max_j s_ij)        the running maximum; it becomes m_i
    alpha = 2^(m_i - m_ij)              rescales what was summed under the maximum before
    l_i   = alpha l_i + sum_j 2^(s_ij - m_ij)
    acc_i = alpha acc_i + sum_j z_ij 2^(s_ij - m_ij) v_j

In the end out_i = c acc_i / l_i and lse_i = m_i + log2 l_i. The dropout mask z is 0 or 1, and c = 1 / (1 - its rate).
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..triton_dropout import keep, row_key

LOG2E: tl.constexpr = tl.constexpr(1.4426950408889634)
LOWERED: tl.constexpr = tl.constexpr(-1e9)  # of masked keys, as in the official code


@triton.jit
def masked_score(mask_ptr, length, MASK: tl.constexpr, BLOCK: tl.constexpr):
    """The score of a masked key: far below all others or, where no key of the sequence may be seen, 0. In the official
    code such a row has scores of -1e9 that have lost their differences in float32, so its weights are equal."""
    low = 0.0
    if MASK:
        seen = tl.zeros([BLOCK], tl.int32)
        for n0 in range(0, length, BLOCK):
            columns = n0 + tl.arange(0, BLOCK)
            seen |= tl.load(mask_ptr + columns, mask=columns < length, other=0).to(tl.int32)
        low = tl.where(tl.max(seen, 0) != 0, LOWERED, 0.0)
    return low


@triton.jit
def scores(q, k, rows, columns, length, scale, low, mask_ptr, bias_ptr, MASK: tl.constexpr, BIAS: tl.constexpr,
           EVEN: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """Scores (rows, columns) in powers of two, of q (rows, E) and k (E, columns). ``rows`` and ``columns`` are vectors
    that broadcast against each other, so that a transposed block is made by transposed vectors. Columns beyond the
    sequence are -inf."""
    s = tl.dot(q, k, input_precision=PRECISION) * (scale * LOG2E)
    if BIAS:
        inside = (rows < length) & (columns < length)
        s += tl.load(bias_ptr + rows * length + columns, mask=inside, other=0.0).to(tl.float32) * LOG2E
    if MASK:
        s = tl.where(tl.load(mask_ptr + columns, mask=columns < length, other=0) != 0, s, low)
    if not EVEN:
        s = tl.where(columns < length, s, -float("inf"))
    return s


@triton.jit
def _step(l_i, m_i, acc, q, base, rows, n0, length, stride, HE, e, keys, scale, threshold, low, mask_ptr, bias_ptr,
          MASK: tl.constexpr, BIAS: tl.constexpr, DROPOUT: tl.constexpr, E: tl.constexpr, BLOCK_N: tl.constexpr,
          EVEN: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """One block of keys: the new l_i (BLOCK_M,), m_i (BLOCK_M,) and acc (BLOCK_M, BLOCK_E)."""
    columns = n0 + tl.arange(0, BLOCK_N)
    inside = (columns < length)[:, None] & (e < E)[None, :]
    if EVEN:
        inside = (e < E)[None, :] & (columns >= 0)[:, None]
    offsets = columns[:, None] * stride + e[None, :]
    k = tl.load(base + HE + offsets, mask=inside, other=0.0)
    s = scores(q, tl.trans(k), rows[:, None], columns[None, :], length, scale, low, mask_ptr, bias_ptr, MASK, BIAS,
               EVEN, PRECISION)  # fmt: skip
    m_ij = tl.maximum(m_i, tl.max(s, 1))
    p = tl.math.exp2(s - m_ij[:, None])
    alpha = tl.math.exp2(m_i - m_ij)
    l_i = l_i * alpha + tl.sum(p, 1)
    if DROPOUT:
        p = tl.where(keep(keys[:, None], columns[None, :], threshold), p, 0.0)
    v = tl.load(base + 2 * HE + offsets, mask=inside, other=0.0)
    acc = tl.dot(p.to(v.dtype), v, acc * alpha[:, None], input_precision=PRECISION)
    return l_i, m_ij, acc


@triton.jit
def attention_forward(
    qkv_ptr,  # (T, 3, H, E)
    mask_ptr,  # (T,) uint8, 0 where no query may see the key; None without MASK
    bias_ptr,  # (H, N, N), or None without BIAS
    seed_ptr,  # (1,) int64, or None without DROPOUT
    tiles_ptr,  # (tiles, 3) int32: first row of the sequence, its length, first token of the block
    out_ptr,  # (T, H, E), written
    lse_ptr,  # (H, T) float32, written
    T,
    H,
    scale,
    threshold,  # of the dropout, see `dropout.threshold`
    keep_scale,  # c
    MASK: tl.constexpr,
    BIAS: tl.constexpr,
    DROPOUT: tl.constexpr,
    E: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """out, and the log-sum-exp of each row in powers of two. A program: a tile and a head."""
    tile, h = tl.program_id(0), tl.program_id(1)
    start = tl.load(tiles_ptr + 3 * tile).to(tl.int64)
    length = tl.load(tiles_ptr + 3 * tile + 1)
    rows = tl.load(tiles_ptr + 3 * tile + 2) + tl.arange(0, BLOCK_M)
    HE = H * E
    stride = 3 * HE
    e = tl.arange(0, BLOCK_E)
    inside = (rows < length)[:, None] & (e < E)[None, :]
    base = qkv_ptr + start * stride + h * E
    q = tl.load(base + rows[:, None] * stride + e[None, :], mask=inside, other=0.0)
    keys = tl.zeros([BLOCK_M], tl.uint32)
    if DROPOUT:
        keys = row_key(seed_ptr, h.to(tl.int64) * T + start + rows)
    if MASK:
        mask_ptr += start
    low = masked_score(mask_ptr, length, MASK, BLOCK_N)
    if BIAS:
        bias_ptr += h.to(tl.int64) * length * length

    m_i = tl.full([BLOCK_M], -float("inf"), tl.float32)
    l_i = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, BLOCK_E], tl.float32)
    whole = length // BLOCK_N * BLOCK_N
    for n0 in range(0, whole, BLOCK_N):
        l_i, m_i, acc = _step(l_i, m_i, acc, q, base, rows, n0, length, stride, HE, e, keys, scale, threshold, low,
                              mask_ptr, bias_ptr, MASK, BIAS, DROPOUT, E, BLOCK_N, True, PRECISION)  # fmt: skip
    if whole < length:
        l_i, m_i, acc = _step(l_i, m_i, acc, q, base, rows, whole, length, stride, HE, e, keys, scale, threshold, low,
                              mask_ptr, bias_ptr, MASK, BIAS, DROPOUT, E, BLOCK_N, False, PRECISION)  # fmt: skip

    if DROPOUT:
        acc *= keep_scale
    out = out_ptr + start * HE + h * E + rows[:, None] * HE + e[None, :]
    tl.store(out, (acc / l_i[:, None]).to(out_ptr.dtype.element_ty), mask=inside)
    tl.store(lse_ptr + h.to(tl.int64) * T + start + rows, m_i + tl.math.log2(l_i), mask=rows < length)


# Backward. The scores are computed again, and with them the weights p_ij = 2^(s_ij - lse_i). From
# out_i = sum_j c z_ij p_ij v_j, and the derivative of the softmax (ds_ij is by the usual score, s_ij / log2(e)):
#
#     dv_j     = sum_i c z_ij p_ij dout_i
#     dp_ij    = c z_ij (dout_i . v_j)
#     ds_ij    = p_ij (dp_ij - delta_i), where delta_i = sum_j p_ij dp_ij = dout_i . out_i
#     dq_i     = scale sum_j ds_ij k_j
#     dk_j     = scale sum_i ds_ij q_i
#     dbias_ij = sum over the batch of ds_ij
#
# The first kernel gives delta and dq, the second dk and dv, the third dbias. Every gradient has one writer, so there
# are no atomics, and two runs are equal bit by bit.


@triton.jit
def attention_backward_queries(
    qkv_ptr,  # (T, 3, H, E)
    mask_ptr,  # (T,) uint8, 0 where no query may see the key; None without MASK
    bias_ptr,  # (H, N, N), or None without BIAS
    seed_ptr,  # (1,) int64, or None without DROPOUT
    tiles_ptr,  # (tiles, 3) int32: first row of the sequence, its length, first token of the block
    out_ptr,  # (T, H, E)
    lse_ptr,  # (H, T) float32
    grad_out_ptr,  # (T, H, E)
    delta_ptr,  # (H, T) float32, written
    grad_qkv_ptr,  # (T, 3, H, E), its q part is written
    T,
    H,
    scale,
    threshold,  # of the dropout, see `dropout.threshold`
    keep_scale,  # c
    MASK: tl.constexpr,
    BIAS: tl.constexpr,
    DROPOUT: tl.constexpr,
    E: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """dq, and delta for the kernels that follow. A program keeps BLOCK_M queries and walks over all keys."""
    tile, h = tl.program_id(0), tl.program_id(1)
    start = tl.load(tiles_ptr + 3 * tile).to(tl.int64)
    length = tl.load(tiles_ptr + 3 * tile + 1)
    rows = tl.load(tiles_ptr + 3 * tile + 2) + tl.arange(0, BLOCK_M)
    HE = H * E
    stride = 3 * HE
    e = tl.arange(0, BLOCK_E)
    inside = (rows < length)[:, None] & (e < E)[None, :]
    base = qkv_ptr + start * stride + h * E
    q = tl.load(base + rows[:, None] * stride + e[None, :], mask=inside, other=0.0)
    outs = start * HE + h * E + rows[:, None] * HE + e[None, :]
    grad_out = tl.load(grad_out_ptr + outs, mask=inside, other=0.0)
    out = tl.load(out_ptr + outs, mask=inside, other=0.0)
    delta = tl.sum(grad_out.to(tl.float32) * out.to(tl.float32), 1)
    heads = h.to(tl.int64) * T + start + rows
    tl.store(delta_ptr + heads, delta, mask=rows < length)
    lse = tl.load(lse_ptr + heads, mask=rows < length, other=0.0)
    keys = tl.zeros([BLOCK_M], tl.uint32)
    if DROPOUT:
        keys = row_key(seed_ptr, heads)
    if MASK:
        mask_ptr += start
    low = masked_score(mask_ptr, length, MASK, BLOCK_N)
    if BIAS:
        bias_ptr += h.to(tl.int64) * length * length

    acc = tl.zeros([BLOCK_M, BLOCK_E], tl.float32)
    for n0 in range(0, length, BLOCK_N):
        columns = n0 + tl.arange(0, BLOCK_N)
        offsets = columns[:, None] * stride + e[None, :]
        seen = (columns < length)[:, None] & (e < E)[None, :]
        k = tl.load(base + HE + offsets, mask=seen, other=0.0)
        v = tl.load(base + 2 * HE + offsets, mask=seen, other=0.0)
        s = scores(q, tl.trans(k), rows[:, None], columns[None, :], length, scale, low, mask_ptr, bias_ptr, MASK, BIAS,
                   False, PRECISION)  # fmt: skip
        p = tl.math.exp2(s - lse[:, None])
        dp = tl.dot(grad_out, tl.trans(v), input_precision=PRECISION)
        if DROPOUT:
            dp = tl.where(keep(keys[:, None], columns[None, :], threshold), dp * keep_scale, 0.0)
        ds = p * (dp - delta[:, None])
        acc = tl.dot(ds.to(k.dtype), k, acc, input_precision=PRECISION)
    grad_q = grad_qkv_ptr + start * stride + h * E + rows[:, None] * stride + e[None, :]
    tl.store(grad_q, (acc * scale).to(grad_qkv_ptr.dtype.element_ty), mask=inside)


@triton.jit
def attention_backward_keys(
    qkv_ptr,  # (T, 3, H, E)
    mask_ptr,  # (T,) uint8, 0 where no query may see the key; None without MASK
    bias_ptr,  # (H, N, N), or None without BIAS
    seed_ptr,  # (1,) int64, or None without DROPOUT
    tiles_ptr,  # (tiles, 3) int32: first row of the sequence, its length, first token of the block
    lse_ptr,  # (H, T) float32
    grad_out_ptr,  # (T, H, E)
    delta_ptr,  # (H, T) float32
    grad_qkv_ptr,  # (T, 3, H, E), its k and v parts are written
    T,
    H,
    scale,
    threshold,  # of the dropout, see `dropout.threshold`
    keep_scale,  # c
    MASK: tl.constexpr,
    BIAS: tl.constexpr,
    DROPOUT: tl.constexpr,
    E: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """dk and dv. A program keeps BLOCK_N keys and walks over all queries."""
    tile, h = tl.program_id(0), tl.program_id(1)
    start = tl.load(tiles_ptr + 3 * tile).to(tl.int64)
    length = tl.load(tiles_ptr + 3 * tile + 1)
    columns = tl.load(tiles_ptr + 3 * tile + 2) + tl.arange(0, BLOCK_N)
    HE = H * E
    stride = 3 * HE
    e = tl.arange(0, BLOCK_E)
    inside = (columns < length)[:, None] & (e < E)[None, :]
    base = qkv_ptr + start * stride + h * E
    offsets = columns[:, None] * stride + e[None, :]
    k = tl.load(base + HE + offsets, mask=inside, other=0.0)
    v = tl.load(base + 2 * HE + offsets, mask=inside, other=0.0)
    if MASK:
        mask_ptr += start
    low = masked_score(mask_ptr, length, MASK, BLOCK_N)
    if BIAS:
        bias_ptr += h.to(tl.int64) * length * length

    grad_k = tl.zeros([BLOCK_N, BLOCK_E], tl.float32)
    grad_v = tl.zeros([BLOCK_N, BLOCK_E], tl.float32)
    for m0 in range(0, length, BLOCK_M):
        rows = m0 + tl.arange(0, BLOCK_M)
        seen = (rows < length)[:, None] & (e < E)[None, :]
        q = tl.load(base + rows[:, None] * stride + e[None, :], mask=seen, other=0.0)
        outs = start * HE + h * E + rows[:, None] * HE + e[None, :]
        grad_out = tl.load(grad_out_ptr + outs, mask=seen, other=0.0)
        heads = h.to(tl.int64) * T + start + rows
        # Rows beyond the sequence: an infinite log-sum-exp makes their weights 0.
        lse = tl.load(lse_ptr + heads, mask=rows < length, other=float("inf"))
        delta = tl.load(delta_ptr + heads, mask=rows < length, other=0.0)
        s = scores(k, tl.trans(q), rows[None, :], columns[:, None], length, scale, low, mask_ptr, bias_ptr, MASK, BIAS,
                   False, PRECISION)  # fmt: skip
        p = tl.math.exp2(s - lse[None, :])
        dp = tl.dot(v, tl.trans(grad_out), input_precision=PRECISION)
        used = p
        if DROPOUT:
            kept = keep(row_key(seed_ptr, heads)[None, :], columns[:, None], threshold)
            used = tl.where(kept, p * keep_scale, 0.0)
            dp = tl.where(kept, dp * keep_scale, 0.0)
        grad_v = tl.dot(used.to(grad_out.dtype), grad_out, grad_v, input_precision=PRECISION)
        ds = p * (dp - delta[None, :])
        grad_k = tl.dot(ds.to(q.dtype), q, grad_k, input_precision=PRECISION)
    kind = grad_qkv_ptr.dtype.element_ty
    target = grad_qkv_ptr + start * stride + h * E + offsets
    tl.store(target + HE, (grad_k * scale).to(kind), mask=inside)
    tl.store(target + 2 * HE, grad_v.to(kind), mask=inside)


@triton.jit
def attention_backward_bias(
    qkv_ptr,  # (T, 3, H, E)
    mask_ptr,  # (T,) uint8, 0 where no query may see the key; None without MASK
    bias_ptr,  # (H, N, N), or None without BIAS
    seed_ptr,  # (1,) int64, or None without DROPOUT
    lse_ptr,  # (H, T) float32
    grad_out_ptr,  # (T, H, E)
    delta_ptr,  # (H, T) float32
    grad_bias_ptr,  # (P, H, N, N) float32, written
    B,
    N,
    T,
    H,
    scale,
    threshold,  # of the dropout, see `dropout.threshold`
    keep_scale,  # c
    MASK: tl.constexpr,
    DROPOUT: tl.constexpr,
    E: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Partial sums of dbias over the batch: program (block, h, p) of P takes every P-th sequence."""
    across = tl.cdiv(N, BLOCK_N)
    h = tl.program_id(1)
    rows = tl.program_id(0) // across * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = tl.program_id(0) % across * BLOCK_N + tl.arange(0, BLOCK_N)
    HE = H * E
    stride = 3 * HE
    e = tl.arange(0, BLOCK_E)
    of_rows = (rows < N)[:, None] & (e < E)[None, :]
    of_columns = (columns < N)[:, None] & (e < E)[None, :]
    bias_ptr += h.to(tl.int64) * N * N
    acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for b in range(tl.program_id(2), B, tl.num_programs(2)):
        start = tl.cast(b, tl.int64) * N
        base = qkv_ptr + start * stride + h * E
        q = tl.load(base + rows[:, None] * stride + e[None, :], mask=of_rows, other=0.0)
        k = tl.load(base + HE + columns[:, None] * stride + e[None, :], mask=of_columns, other=0.0)
        v = tl.load(base + 2 * HE + columns[:, None] * stride + e[None, :], mask=of_columns, other=0.0)
        outs = start * HE + h * E + rows[:, None] * HE + e[None, :]
        grad_out = tl.load(grad_out_ptr + outs, mask=of_rows, other=0.0)
        heads = h.to(tl.int64) * T + start + rows
        lse = tl.load(lse_ptr + heads, mask=rows < N, other=float("inf"))
        delta = tl.load(delta_ptr + heads, mask=rows < N, other=0.0)
        seen_ptr = mask_ptr
        if MASK:
            seen_ptr += start
        low = masked_score(seen_ptr, N, MASK, BLOCK_N)
        s = scores(q, tl.trans(k), rows[:, None], columns[None, :], N, scale, low, seen_ptr, bias_ptr, MASK, True,
                   False, PRECISION)  # fmt: skip
        dp = tl.dot(grad_out, tl.trans(v), input_precision=PRECISION)
        if DROPOUT:
            kept = keep(row_key(seed_ptr, heads)[:, None], columns[None, :], threshold)
            dp = tl.where(kept, dp * keep_scale, 0.0)
        acc += tl.math.exp2(s - lse[:, None]) * (dp - delta[:, None])
    inside = (rows < N)[:, None] & (columns < N)[None, :]
    target = (tl.program_id(2) * H + h).to(tl.int64) * N * N
    tl.store(grad_bias_ptr + target + rows[:, None] * N + columns[None, :], acc, mask=inside)
