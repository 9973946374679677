"""Flash attention, forward: softmax over blocks of keys, without the scores in memory.

After FlashAttention-2 (Dao, 2023). Shapes: T tokens of all sequences, H heads, E head dim, N tokens of one sequence.
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
    """Scores (rows, columns) in powers of two; ``rows`` and ``columns`` are vectors that broadcast against each other,
    so that a transposed block is made by transposed vectors. Columns beyond the sequence are -inf."""
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
def _step(total, peak, acc, q, base, rows, n0, length, stride, HE, e, keys, scale, threshold, low, mask_ptr, bias_ptr,
          MASK: tl.constexpr, BIAS: tl.constexpr, DROPOUT: tl.constexpr, E: tl.constexpr, BLOCK_N: tl.constexpr,
          EVEN: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """One block of keys: the running sum and peak of the softmax, and the weighted values."""
    columns = n0 + tl.arange(0, BLOCK_N)
    inside = (columns < length)[:, None] & (e < E)[None, :]
    if EVEN:
        inside = (e < E)[None, :] & (columns >= 0)[:, None]
    offsets = columns[:, None] * stride + e[None, :]
    k = tl.load(base + HE + offsets, mask=inside, other=0.0)
    s = scores(q, tl.trans(k), rows[:, None], columns[None, :], length, scale, low, mask_ptr, bias_ptr, MASK, BIAS,
               EVEN, PRECISION)  # fmt: skip
    higher = tl.maximum(peak, tl.max(s, 1))
    p = tl.math.exp2(s - higher[:, None])
    shrink = tl.math.exp2(peak - higher)
    total = total * shrink + tl.sum(p, 1)
    if DROPOUT:
        p = tl.where(keep(keys[:, None], columns[None, :], threshold), p, 0.0)
    v = tl.load(base + 2 * HE + offsets, mask=inside, other=0.0)
    acc = tl.dot(p.to(v.dtype), v, acc * shrink[:, None], input_precision=PRECISION)
    return total, higher, acc


@triton.jit
def attention_forward(
    qkv_ptr,
    mask_ptr,
    bias_ptr,
    seed_ptr,
    tiles_ptr,
    out_ptr,
    lse_ptr,
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
    """out (T, H, E) and the log-sum-exp of each row, (H, T), in powers of two."""
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

    peak = tl.full([BLOCK_M], -float("inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, BLOCK_E], tl.float32)
    whole = length // BLOCK_N * BLOCK_N
    for n0 in range(0, whole, BLOCK_N):
        total, peak, acc = _step(total, peak, acc, q, base, rows, n0, length, stride, HE, e, keys, scale, threshold,
                                 low, mask_ptr, bias_ptr, MASK, BIAS, DROPOUT, E, BLOCK_N, True, PRECISION)  # fmt: skip
    if whole < length:
        total, peak, acc = _step(total, peak, acc, q, base, rows, whole, length, stride, HE, e, keys, scale, threshold,
                                 low, mask_ptr, bias_ptr, MASK, BIAS, DROPOUT, E, BLOCK_N, False,
                                 PRECISION)  # fmt: skip

    if DROPOUT:
        acc *= keep_scale
    out = out_ptr + start * HE + h * E + rows[:, None] * HE + e[None, :]
    tl.store(out, (acc / total[:, None]).to(out_ptr.dtype.element_ty), mask=inside)
    tl.store(lse_ptr + h.to(tl.int64) * T + start + rows, peak + tl.math.log2(total), mask=rows < length)
