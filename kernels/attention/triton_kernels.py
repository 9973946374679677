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

The loops come twice: over whole blocks without masks, then over what is left in narrower steps with them. So do
those of the backward pass, `triton_backward.py`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..triton_dropout import ASSEMBLY, dropped, group_first, group_hash, row_key

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
    sequence are -inf, unless EVEN promises that there are none or that nothing comes of them."""
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
def load_rows(ptr, n0, length, stride, E: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK: tl.constexpr, EVEN: tl.constexpr):
    """Rows n0, ..., n0 + BLOCK - 1 (BLOCK, BLOCK_E), 0 beyond the sequence and the head dim."""
    n, e = tl.arange(0, BLOCK), tl.arange(0, BLOCK_E)
    ptrs = ptr + tl.cast(n0, tl.int64) * stride + (n[:, None] * stride + e[None, :])
    if EVEN and E == BLOCK_E:
        x = tl.load(ptrs)
    elif EVEN:
        x = tl.load(ptrs, mask=(e < E)[None, :] & (n >= 0)[:, None], other=0.0)
    else:
        x = tl.load(ptrs, mask=(e < E)[None, :] & (n0 + n < length)[:, None], other=0.0)
    return x


@triton.jit
def load_row_numbers(ptr, n, length, other: tl.constexpr, EVEN: tl.constexpr):
    """One number for each of the rows ``n``, ``other`` beyond the sequence."""
    if EVEN:
        x = tl.load(ptr + n)
    else:
        x = tl.load(ptr + n, mask=n < length, other=other)
    return x


@triton.jit
def narrow(x, kind: tl.constexpr):
    """``x`` rounded to ``kind``. By assembly, since LLVM moves a selection in front of the rounding behind it and then
    takes registers apart into their halves."""
    if ASSEMBLY and kind == tl.bfloat16:
        y = tl.inline_asm_elementwise(
            "cvt.rn.bf16x2.f32 $0, $2, $1;", "=r,r,r", [x], dtype=tl.bfloat16, is_pure=True, pack=2
        )
    elif ASSEMBLY and kind == tl.float16:
        y = tl.inline_asm_elementwise(
            "cvt.rn.f16x2.f32 $0, $2, $1;", "=r,r,r", [x], dtype=tl.float16, is_pure=True, pack=2
        )
    else:
        y = x.to(kind)
    return y


@triton.jit
def _step(l_i, m_i, acc, q, base, rows, n0, length, stride, HE, row_keys, scale, threshold, low, mask_ptr, bias_ptr,
          MASK: tl.constexpr, BIAS: tl.constexpr, DROPOUT: tl.constexpr, POSITIVE: tl.constexpr, E: tl.constexpr,
          BLOCK_E: tl.constexpr, BLOCK_N: tl.constexpr, EVEN: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """One block of keys: the new l_i (BLOCK_M,), m_i (BLOCK_M,) and acc (BLOCK_M, BLOCK_E)."""
    columns = n0 + tl.arange(0, BLOCK_N)
    k = load_rows(base + HE, n0, length, stride, E, BLOCK_E, BLOCK_N, EVEN)
    if MASK or BIAS or not POSITIVE:
        s = scores(q, tl.trans(k), rows[:, None], columns[None, :], length, scale, low, mask_ptr, bias_ptr, MASK, BIAS,
                   EVEN, PRECISION)  # fmt: skip
        m_ij = tl.maximum(m_i, tl.max(s, 1))
        s = s - m_ij[:, None]
    else:  # a positive scale leaves the largest score the largest: it is multiplied and subtracted in one instruction
        s = tl.dot(q, tl.trans(k), input_precision=PRECISION)
        if not EVEN:
            s = tl.where((columns < length)[None, :], s, -float("inf"))
        m_ij = tl.maximum(m_i, tl.max(s, 1) * (scale * LOG2E))
        s = s * (scale * LOG2E) - m_ij[:, None]
    p = tl.math.exp2(s)
    alpha = tl.math.exp2(m_i - m_ij)
    l_i = l_i * alpha + tl.sum(p, 1)
    if DROPOUT:
        p = dropped(p, group_hash(row_keys, n0, BLOCK_N, False), threshold)
    v = load_rows(base + 2 * HE, n0, length, stride, E, BLOCK_E, BLOCK_N, EVEN)
    acc = tl.dot(narrow(p, v.dtype), v, acc * alpha[:, None], input_precision=PRECISION)
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
    TAIL: tl.constexpr,  # keys of a step behind the last whole block; 0: no whole blocks, every step is masked
    POSITIVE: tl.constexpr,  # scale > 0
    PRECISION: tl.constexpr,
):
    """out, and the log-sum-exp of each row in powers of two. A program: a tile and a head."""
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
    first = h.to(tl.int64) * T + start
    row_keys = 0
    if DROPOUT:
        row_keys = row_key(seed_ptr, first + group_first(m0, BLOCK_M))
    if MASK:
        mask_ptr += start
    low = masked_score(mask_ptr, length, MASK, BLOCK_N)
    if BIAS:
        bias_ptr += h.to(tl.int64) * length * length

    m_i = tl.full([BLOCK_M], -float("inf"), tl.float32)
    l_i = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, BLOCK_E], tl.float32)
    whole = 0
    if TAIL > 0:
        whole = length // BLOCK_N * BLOCK_N
        for n0 in range(0, whole, BLOCK_N):
            l_i, m_i, acc = _step(l_i, m_i, acc, q, base, rows, n0, length, stride, HE, row_keys, scale, threshold, low,
                                  mask_ptr, bias_ptr, MASK, BIAS, DROPOUT, POSITIVE, E, BLOCK_E, BLOCK_N, True,
                                  PRECISION)  # fmt: skip
    REST: tl.constexpr = TAIL if TAIL > 0 else BLOCK_N
    for n0 in tl.range(whole, length, REST, num_stages=1):
        l_i, m_i, acc = _step(l_i, m_i, acc, q, base, rows, n0, length, stride, HE, row_keys, scale, threshold, low,
                              mask_ptr, bias_ptr, MASK, BIAS, DROPOUT, POSITIVE, E, BLOCK_E, REST, False,
                              PRECISION)  # fmt: skip

    if DROPOUT:
        acc *= keep_scale
    out = out_ptr + start * HE + h * E + rows[:, None] * HE + e[None, :]
    tl.store(out, (acc / l_i[:, None]).to(out_ptr.dtype.element_ty), mask=inside)
    tl.store(lse_ptr + first + rows, m_i + tl.math.log2(l_i), mask=rows < length)
