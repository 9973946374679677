"""Flash attention, backward: scores are computed again, and every gradient has one writer (no atomics).

The first kernel gives dq and the row sums of dout * out, the second dk and dv, the third the gradient of the bias.
Shapes: T tokens of all sequences, H heads, E head dim, N tokens of one sequence.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..triton_dropout import keep, row_key
from .triton_forward import masked_score, scores


@triton.jit
def attention_backward_queries(
    qkv_ptr,
    mask_ptr,
    bias_ptr,
    seed_ptr,
    tiles_ptr,
    out_ptr,
    lse_ptr,
    grad_out_ptr,
    delta_ptr,
    grad_qkv_ptr,
    T,
    H,
    scale,
    threshold,
    keep_scale,
    MASK: tl.constexpr,
    BIAS: tl.constexpr,
    DROPOUT: tl.constexpr,
    E: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The q part of grad_qkv (T, 3, H, E), and delta (H, T) for the kernels that follow."""
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
    qkv_ptr,
    mask_ptr,
    bias_ptr,
    seed_ptr,
    tiles_ptr,
    lse_ptr,
    grad_out_ptr,
    delta_ptr,
    grad_qkv_ptr,
    T,
    H,
    scale,
    threshold,
    keep_scale,
    MASK: tl.constexpr,
    BIAS: tl.constexpr,
    DROPOUT: tl.constexpr,
    E: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The k and v parts of grad_qkv (T, 3, H, E): a program keeps BLOCK_N keys and walks over all queries."""
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
    qkv_ptr,
    mask_ptr,
    bias_ptr,
    seed_ptr,
    lse_ptr,
    grad_out_ptr,
    delta_ptr,
    grad_bias_ptr,
    B,
    N,
    T,
    H,
    scale,
    threshold,
    keep_scale,
    MASK: tl.constexpr,
    DROPOUT: tl.constexpr,
    E: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Partial sums (P, H, N, N) over the batch of the gradient of the scores: program (block, h, p) of P takes every
    P-th sequence."""
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
