"""The backward pass of flash attention, see `triton_kernels.py`, whose shapes and names these are.

The scores are computed again, and with them the weights p_ij = 2^(s_ij - lse_i). From
out_i = sum_j c z_ij p_ij v_j, and the derivative of the softmax (ds_ij is by the usual score, s_ij / log2(e)):

    dv_j     = sum_i c z_ij p_ij dout_i
    dp_ij    = c z_ij (dout_i . v_j)
    ds_ij    = p_ij (dp_ij - delta_i), where delta_i = sum_j p_ij dp_ij = dout_i . out_i
    dq_i     = scale sum_j ds_ij k_j
    dk_j     = scale sum_i ds_ij q_i
    dbias_ij = sum over the batch of ds_ij

c leaves the loops: ds_ij = c ds'_ij with ds'_ij = p_ij (z_ij (dout_i . v_j) - delta_i / c), and the sums over ds' are
multiplied once. The first kernel gives delta / c, the keys of the rows of the dropout mask, and dq; the second dk and
dv, the third dbias. Every gradient has one writer, so there are no atomics, and two runs are equal bit by bit.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..triton_dropout import dropped, group_first, group_hash, row_key
from .triton_kernels import load_row_numbers, load_rows, masked_score, narrow, scores


@triton.jit
def _query_step(acc, q, grad_out, lse, delta, base, rows, n0, length, stride, HE, row_keys, scale, threshold, low,
                mask_ptr, bias_ptr, MASK: tl.constexpr, BIAS: tl.constexpr, DROPOUT: tl.constexpr, E: tl.constexpr,
                BLOCK_E: tl.constexpr, BLOCK_N: tl.constexpr, EVEN: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """acc (BLOCK_M, BLOCK_E) with one more block of keys: the sum of ds' k."""
    columns = n0 + tl.arange(0, BLOCK_N)
    k = load_rows(base + HE, n0, length, stride, E, BLOCK_E, BLOCK_N, EVEN)
    v = load_rows(base + 2 * HE, n0, length, stride, E, BLOCK_E, BLOCK_N, EVEN)
    s = scores(q, tl.trans(k), rows[:, None], columns[None, :], length, scale, low, mask_ptr, bias_ptr, MASK, BIAS,
               EVEN, PRECISION)  # fmt: skip
    p = tl.math.exp2(s - lse[:, None])
    dp = tl.dot(grad_out, tl.trans(v), input_precision=PRECISION)
    if DROPOUT:
        dp = dropped(dp, group_hash(row_keys, n0, BLOCK_N, False), threshold)
    ds = p * (dp - delta[:, None])
    return tl.dot(narrow(ds, k.dtype), k, acc, input_precision=PRECISION)


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
    delta_ptr,  # (H, T) float32, written: delta / c
    row_keys_ptr,  # (H, T) int32, written: the keys of the rows' masks; None without DROPOUT
    grad_qkv_ptr,  # (T, 3, H, E), its q part is written
    T,
    H,
    scale,
    threshold,  # of the dropout, see `dropout.threshold`
    keep_scale,  # c
    keep_share,  # 1 / c, 0 where c is 0
    MASK: tl.constexpr,
    BIAS: tl.constexpr,
    DROPOUT: tl.constexpr,
    E: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    TAIL: tl.constexpr,  # keys of a step behind the last whole block; 0: no whole blocks, every step is masked
    PRECISION: tl.constexpr,
):
    """dq, delta and the keys of rows for the kernels that follow. A program keeps BLOCK_M queries, walks over all
    keys."""
    tile, h = tl.program_id(0), tl.program_id(1)
    start = tl.load(tiles_ptr + 3 * tile).to(tl.int64)
    length = tl.load(tiles_ptr + 3 * tile + 1)
    m0 = tl.load(tiles_ptr + 3 * tile + 2)
    rows = m0 + tl.arange(0, BLOCK_M)
    HE = H * E
    stride = 3 * HE
    e = tl.arange(0, BLOCK_E)
    inside = (rows < length)[:, None] & (e < E)[None, :]
    base = qkv_ptr + start * stride + h * E
    q = tl.load(base + rows[:, None] * stride + e[None, :], mask=inside, other=0.0)
    outs = start * HE + h * E + rows[:, None] * HE + e[None, :]
    grad_out = tl.load(grad_out_ptr + outs, mask=inside, other=0.0)
    out = tl.load(out_ptr + outs, mask=inside, other=0.0)
    first = h.to(tl.int64) * T + start
    delta = tl.sum(grad_out.to(tl.float32) * out.to(tl.float32), 1)
    row_keys = 0
    if DROPOUT:
        delta *= keep_share
        groups = group_first(m0, BLOCK_M)
        row_keys = row_key(seed_ptr, first + groups)
        tl.store(row_keys_ptr + first + groups, row_keys.to(tl.int32, bitcast=True), mask=groups < length)
        tl.store(row_keys_ptr + first + groups + 8, row_keys.to(tl.int32, bitcast=True), mask=groups + 8 < length)
    tl.store(delta_ptr + first + rows, delta, mask=rows < length)
    lse = tl.load(lse_ptr + first + rows, mask=rows < length, other=0.0)
    if MASK:
        mask_ptr += start
    low = masked_score(mask_ptr, length, MASK, BLOCK_N)
    if BIAS:
        bias_ptr += h.to(tl.int64) * length * length

    acc = tl.zeros([BLOCK_M, BLOCK_E], tl.float32)
    whole = 0
    if TAIL > 0:
        whole = length // BLOCK_N * BLOCK_N
        for n0 in range(0, whole, BLOCK_N):
            acc = _query_step(acc, q, grad_out, lse, delta, base, rows, n0, length, stride, HE, row_keys, scale,
                              threshold, low, mask_ptr, bias_ptr, MASK, BIAS, DROPOUT, E, BLOCK_E, BLOCK_N, True,
                              PRECISION)  # fmt: skip
    REST: tl.constexpr = TAIL if TAIL > 0 else BLOCK_N
    for n0 in tl.range(whole, length, REST, num_stages=1):
        acc = _query_step(acc, q, grad_out, lse, delta, base, rows, n0, length, stride, HE, row_keys, scale, threshold,
                          low, mask_ptr, bias_ptr, MASK, BIAS, DROPOUT, E, BLOCK_E, REST, False,
                          PRECISION)  # fmt: skip
    if DROPOUT:
        acc *= keep_scale
    grad_q = grad_qkv_ptr + start * stride + h * E + rows[:, None] * stride + e[None, :]
    tl.store(grad_q, (acc * scale).to(grad_qkv_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _key_step(grad_k, grad_v, k, v, base, grad_out_base, columns, m0, n0, length, stride, HE, scale, threshold,
              low, mask_ptr, bias_ptr, lse_ptr, delta_ptr, row_keys_ptr, MASK: tl.constexpr, BIAS: tl.constexpr,
              DROPOUT: tl.constexpr, E: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_M: tl.constexpr,
              BLOCK_N: tl.constexpr, EVEN: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """grad_k and grad_v (BLOCK_N, BLOCK_E) with one more block of queries. Blocks of scores are transposed."""
    rows = m0 + tl.arange(0, BLOCK_M)
    q = load_rows(base, m0, length, stride, E, BLOCK_E, BLOCK_M, EVEN)
    grad_out = load_rows(grad_out_base, m0, length, HE, E, BLOCK_E, BLOCK_M, EVEN)
    # Rows beyond the sequence: an infinite log-sum-exp makes their weights 0. Columns beyond it are not stored.
    lse = load_row_numbers(lse_ptr, rows, length, float("inf"), EVEN)
    delta = load_row_numbers(delta_ptr, rows, length, 0.0, EVEN)
    s = scores(k, tl.trans(q), rows[None, :], columns[:, None], length, scale, low, mask_ptr, bias_ptr, MASK, BIAS,
               True, PRECISION)  # fmt: skip
    p = tl.math.exp2(s - lse[None, :])
    dp = tl.dot(v, tl.trans(grad_out), input_precision=PRECISION)
    if DROPOUT:
        row_keys = load_row_numbers(row_keys_ptr, group_first(m0, BLOCK_M), length, 0, EVEN)
        hashes = group_hash(row_keys.to(tl.uint32, bitcast=True), n0, BLOCK_N, True)
        used = dropped(p, hashes, threshold)
        ds = used * dp - p * delta[None, :]
    else:
        used = p
        ds = p * (dp - delta[None, :])
    grad_v = tl.dot(narrow(used, grad_out.dtype), grad_out, grad_v, input_precision=PRECISION)
    grad_k = tl.dot(narrow(ds, q.dtype), q, grad_k, input_precision=PRECISION)
    return grad_k, grad_v


@triton.jit
def attention_backward_keys(
    qkv_ptr,  # (T, 3, H, E)
    mask_ptr,  # (T,) uint8, 0 where no query may see the key; None without MASK
    bias_ptr,  # (H, N, N), or None without BIAS
    tiles_ptr,  # (tiles, 3) int32: first row of the sequence, its length, first token of the block
    lse_ptr,  # (H, T) float32
    grad_out_ptr,  # (T, H, E)
    delta_ptr,  # (H, T) float32: delta / c
    row_keys_ptr,  # (H, T) int32, or None without DROPOUT
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
    TAIL: tl.constexpr,  # queries of a step behind the last whole block; 0: no whole blocks, every step is masked
    PRECISION: tl.constexpr,
):
    """dk and dv. A program keeps BLOCK_N keys and walks over all queries."""
    tile, h = tl.program_id(0), tl.program_id(1)
    start = tl.load(tiles_ptr + 3 * tile).to(tl.int64)
    length = tl.load(tiles_ptr + 3 * tile + 1)
    n0 = tl.load(tiles_ptr + 3 * tile + 2)
    columns = n0 + tl.arange(0, BLOCK_N)
    HE = H * E
    stride = 3 * HE
    e = tl.arange(0, BLOCK_E)
    inside = (columns < length)[:, None] & (e < E)[None, :]
    base = qkv_ptr + start * stride + h * E
    offsets = columns[:, None] * stride + e[None, :]
    k = tl.load(base + HE + offsets, mask=inside, other=0.0)
    v = tl.load(base + 2 * HE + offsets, mask=inside, other=0.0)
    grad_out_base = grad_out_ptr + start * HE + h * E
    first = h.to(tl.int64) * T + start
    lse_ptr += first
    delta_ptr += first
    if DROPOUT:
        row_keys_ptr += first
    if MASK:
        mask_ptr += start
    low = masked_score(mask_ptr, length, MASK, BLOCK_N)
    if BIAS:
        bias_ptr += h.to(tl.int64) * length * length

    grad_k = tl.zeros([BLOCK_N, BLOCK_E], tl.float32)
    grad_v = tl.zeros([BLOCK_N, BLOCK_E], tl.float32)
    whole = 0
    if TAIL > 0:
        whole = length // BLOCK_M * BLOCK_M
        for m0 in range(0, whole, BLOCK_M):
            grad_k, grad_v = _key_step(grad_k, grad_v, k, v, base, grad_out_base, columns, m0, n0, length, stride, HE,
                                       scale, threshold, low, mask_ptr, bias_ptr, lse_ptr, delta_ptr,
                                       row_keys_ptr, MASK, BIAS, DROPOUT, E, BLOCK_E, BLOCK_M, BLOCK_N,
                                       True, PRECISION)  # fmt: skip
    REST: tl.constexpr = TAIL if TAIL > 0 else BLOCK_M
    for m0 in tl.range(whole, length, REST, num_stages=1):
        grad_k, grad_v = _key_step(grad_k, grad_v, k, v, base, grad_out_base, columns, m0, n0, length, stride, HE,
                                   scale, threshold, low, mask_ptr, bias_ptr, lse_ptr, delta_ptr,
                                   row_keys_ptr, MASK, BIAS, DROPOUT, E, BLOCK_E, REST, BLOCK_N, False,
                                   PRECISION)  # fmt: skip
    if DROPOUT:
        grad_k *= keep_scale
        grad_v *= keep_scale
    kind = grad_qkv_ptr.dtype.element_ty
    target = grad_qkv_ptr + start * stride + h * E + offsets
    tl.store(target + HE, (grad_k * scale).to(kind), mask=inside)
    tl.store(target + 2 * HE, grad_v.to(kind), mask=inside)


@triton.jit
def attention_backward_bias(
    qkv_ptr,  # (T, 3, H, E)
    mask_ptr,  # (T,) uint8, 0 where no query may see the key; None without MASK
    bias_ptr,  # (H, N, N), or None without BIAS
    lse_ptr,  # (H, T) float32
    grad_out_ptr,  # (T, H, E)
    delta_ptr,  # (H, T) float32: delta / c
    row_keys_ptr,  # (H, T) int32, or None without DROPOUT
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
    m0, n0 = tl.program_id(0) // across * BLOCK_M, tl.program_id(0) % across * BLOCK_N
    rows, columns = m0 + tl.arange(0, BLOCK_M), n0 + tl.arange(0, BLOCK_N)
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
            groups = group_first(m0, BLOCK_M)
            row_keys = tl.load(row_keys_ptr + h.to(tl.int64) * T + start + groups, mask=groups < N, other=0)
            dp = dropped(dp, group_hash(row_keys.to(tl.uint32, bitcast=True), n0, BLOCK_N, False), threshold)
        acc += tl.math.exp2(s - lse[:, None]) * (dp - delta[:, None])
    if DROPOUT:
        acc *= keep_scale
    inside = (rows < N)[:, None] & (columns < N)[None, :]
    target = (tl.program_id(2) * H + h).to(tl.int64) * N * N
    tl.store(grad_bias_ptr + target + rows[:, None] * N + columns[None, :], acc, mask=inside)
