"""Patch embedding as one implicit matrix product: kept patches are read where they lie in the signal.

A signal is seen as (B, T, H, W) with W the contiguous axis, channels included; a patch is (PT, PH, PW) of it and is
flattened in that order. Shapes: B batch, K kept patches, N all patches, P numbers in a patch, D width, M output rows
(tokens and the aggregation token of all items), S parts of a loop. Every tensor is contiguous.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from ..triton_dropout import ASSEMBLY, keep_pairs, keep_tile, row_key

# By what `centred` divides bytes: in the kernels, and on the host.
SPREAD_BFLOAT16: tl.constexpr = tl.constexpr(64.0)
SPREAD_FLOAT16: tl.constexpr = tl.constexpr(512.0)
SPREAD = {torch.bfloat16: SPREAD_BFLOAT16.value, torch.float16: SPREAD_FLOAT16.value, torch.float32: 1.0}

# Four bytes to four numbers: (b - 127.5) / 64 = b * 2^-133 * 2^127 - 127.5 / 64, and (b - 127.5) / 512 likewise.
_BYTES = """{
.reg .b32 low, high, factor, shift;
prmt.b32 low, $2, 0, 0x4140;
prmt.b32 high, $2, 0, 0x4342;
mov.b32 factor, %s;
mov.b32 shift, %s;
fma.rn.%s $0, low, factor, shift;
fma.rn.%s $1, high, factor, shift;
}"""
BYTES_TO_BFLOAT16: tl.constexpr = tl.constexpr(_BYTES % ("0x7F007F00", "0xBFFFBFFF", "bf16x2", "bf16x2"))
BYTES_TO_FLOAT16: tl.constexpr = tl.constexpr(_BYTES % ("0x78007800", "0xB3F8B3F8", "f16x2", "f16x2"))


@triton.jit
def patch_start(kept_ptr, b, k, K, GH, GW, stride_b, stride_t, stride_h, KEPT: tl.constexpr, PER_ITEM: tl.constexpr,
                GATHERED: tl.constexpr, PT: tl.constexpr, PH: tl.constexpr, PW: tl.constexpr, valid):  # fmt: skip
    """Index of the k-th kept patch of item b, and the offset of its first number, int64; of GATHERED patches it lies in
    place k. Patches of an item are counted in 32 bits: a division of 64 bits takes about a hundred instructions."""
    index = k
    if KEPT:
        at = k.to(tl.int64)
        if PER_ITEM:
            at += b.to(tl.int64) * K
        index = tl.load(kept_ptr + at, mask=valid, other=0).to(tl.int32)
    place = k if GATHERED else index
    line, column = place // GW, place % GW
    t, row = line // GH, line % GH
    inner = t.to(tl.int64) * (PT * stride_t) + row.to(tl.int64) * (PH * stride_h) + column * PW
    return index, b.to(tl.int64) * stride_b + inner


@triton.jit
def inside_patch(p, stride_t, stride_h, PH: tl.constexpr, PW: tl.constexpr):
    """Offset of number ``p`` of a patch from its first one."""
    line = p // PW
    return (line // PH) * stride_t + (line % PH) * stride_h + p % PW


@triton.jit
def centred(x, kind: tl.constexpr, UINT8: tl.constexpr):
    """Bytes minus 127.5 as numbers of a type, exact in every type, over `spread`; floats as they are.

    A conversion has a quarter of the rate of other instructions. So in half types two bytes at a time are read as
    (subnormal) numbers, b * 2^-133 in bfloat16 and b * 2^-24 in float16, which one multiply-add shifts and scales."""
    if not UINT8:
        return x.to(kind)
    elif ASSEMBLY and kind == tl.bfloat16:
        return tl.inline_asm_elementwise(BYTES_TO_BFLOAT16, "=r,=r,r", [x], dtype=tl.bfloat16, is_pure=True, pack=4)
    elif ASSEMBLY and kind == tl.float16:
        return tl.inline_asm_elementwise(BYTES_TO_FLOAT16, "=r,=r,r", [x], dtype=tl.float16, is_pure=True, pack=4)
    else:
        # The byte in the mantissa of 2^15, where a unit is 2^-8.
        x = ((x.to(tl.uint32) << 8) | 0x47000000).to(tl.float32, bitcast=True) - 32895.5
        return (x * (1.0 / spread(kind))).to(kind)


@triton.jit
def spread(kind: tl.constexpr):
    """What `centred` divides by."""
    return SPREAD_BFLOAT16 if kind == tl.bfloat16 else SPREAD_FLOAT16 if kind == tl.float16 else 1.0


@triton.jit
def patch_embed_forward(
    x_ptr,  # (B, T, H, W): uint8 if UINT8, floats otherwise
    weight_ptr,  # (D, P)
    bias_ptr,  # (D,), or None without BIAS
    positions_ptr,  # (N, D), or None without POSITIONS
    token_ptr,  # (D,), or None without TOKEN
    kept_ptr,  # (K,) int64, (B, K) if PER_ITEM, or None without KEPT
    seed_ptr,  # (1,) int64, or None without DROPOUT
    out_ptr,  # (M, D), written
    M,
    K,
    D,
    GH,  # patches along H
    GW,  # patches along W
    stride_b,  # of the signal, in numbers
    stride_t,
    stride_h,
    threshold,  # of the dropout, see `dropout.threshold`
    keep_scale,  # of what it keeps
    UINT8: tl.constexpr,
    KEPT: tl.constexpr,
    PER_ITEM: tl.constexpr,
    GATHERED: tl.constexpr,
    BIAS: tl.constexpr,
    POSITIONS: tl.constexpr,
    TOKEN: tl.constexpr,
    DROPOUT: tl.constexpr,
    EVEN: tl.constexpr,  # D is a multiple of BLOCK_D
    PT: tl.constexpr,
    PH: tl.constexpr,
    PW: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_P: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """All rows of the output: patches projected, with bias and positions, dropped out; and the aggregation token.
    Programs that share a block of patches are neighbours, so that the signal is read once from memory and the rest of
    the time from the L2 cache."""
    P: tl.constexpr = PT * PH * PW
    across = tl.cdiv(D, BLOCK_D)
    m0 = tl.program_id(0) // across * BLOCK_M
    m = m0 + tl.arange(0, BLOCK_M)
    d = tl.program_id(0) % across * BLOCK_D + tl.arange(0, BLOCK_D)
    rows = K + TOKEN
    b, k = m // rows, m % rows - TOKEN
    patches = (m < M) & (k >= 0)
    index, start = patch_start(kept_ptr, b, k, K, GH, GW, stride_b, stride_t, stride_h, KEPT, PER_ITEM, GATHERED,
                               PT, PH, PW, patches)  # fmt: skip
    # Rows and columns that do not exist read the first ones: a mask a row takes registers, and they are never stored.
    start = tl.where(patches, start, 0)
    if EVEN:
        weights = d[:, None] * P
    else:
        weights = tl.where(d < D, d, 0)[:, None] * P
    kind = weight_ptr.dtype.element_ty
    # Positions and bias first: behind the sum their registers would come on top of the accumulators.
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    inside = patches[:, None] & (d < D)[None, :]
    if POSITIONS:
        rows_of_positions = positions_ptr + index.to(tl.int64)[:, None] * D
        acc = tl.load(rows_of_positions + d[None, :], mask=inside, other=0.0).to(tl.float32)
    if BIAS:
        acc += tl.load(bias_ptr + d, mask=d < D, other=0.0).to(tl.float32)[None, :]
    if UINT8:
        acc *= 127.5 / spread(kind)
    for p0 in range(0, P, BLOCK_P):
        p = p0 + tl.arange(0, BLOCK_P)
        offsets = start[:, None] + inside_patch(p, stride_t, stride_h, PH, PW)[None, :]
        if P % BLOCK_P == 0:
            x = tl.load(x_ptr + offsets)
            w = tl.load(weight_ptr + weights + p[None, :])
        else:
            x = tl.load(x_ptr + offsets, mask=(p < P)[None, :], other=0)
            w = tl.load(weight_ptr + weights + p[None, :], mask=(p < P)[None, :], other=0.0)
        acc = tl.dot(centred(x, kind, UINT8), tl.trans(w), acc, input_precision=PRECISION)
    if UINT8:
        acc *= spread(kind) / 127.5
    if DROPOUT:
        pairs = tl.program_id(0) % across * (BLOCK_D // 2) + tl.arange(0, BLOCK_D // 2)
        acc = tl.where(keep_pairs(row_key(seed_ptr, m), pairs, threshold), acc * keep_scale, 0.0)
    out = out_ptr + m.to(tl.int64)[:, None] * D + d[None, :]
    tl.store(out, acc.to(out_ptr.dtype.element_ty), mask=inside)
    if TOKEN:
        token = tl.load(token_ptr + d, mask=d < D, other=0.0).to(out_ptr.dtype.element_ty)
        for row in range(tl.cdiv(m0, rows) * rows, tl.minimum(m0 + BLOCK_M, M), rows):
            tl.store(out_ptr + tl.cast(row, tl.int64) * D + d, token, mask=d < D)


# Backward. A row m of the output that holds patch n = kept[b, k] is out_m = c z_m (W x_n + b + pos_n), where the
# dropout mask z is 0 or 1 and c = 1 / (1 - its rate); the row of the aggregation token is the token. So with
# g_m = c z_m dout_m:
#
#     dW     = sum over rows of g_m x_n^T; of bytes x = (u - 127.5) / 127.5, whose division follows after the sum
#     dpos_n = sum of g_m over the rows that hold patch n
#     db     = sum over rows of g_m = sum over n of dpos_n
#     dtoken = sum over items of the rows of the token
#
# The first kernel gives g (without dropout, dout is g) and its sums over the items, the next two dW, the last dpos. The
# signal has no gradient.


@triton.jit
def patch_embed_rows(
    grad_out_ptr,  # (M, D)
    seed_ptr,  # (1,) int64, or None without DROPOUT
    grad_ptr,  # (M, D), written with DROPOUT
    sums_ptr,  # (K + TOKEN, D) float32, written
    B,
    rows,  # of an item: K and the token
    D,
    threshold,
    keep_scale,
    TOKEN: tl.constexpr,
    DROPOUT: tl.constexpr,
    BLOCK_B: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """g, the gradient in front of the dropout, which the next kernels read many times, and its sums over the items. A
    program: one row of all items."""
    row = tl.program_id(0)
    d = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    groups = tl.program_id(1) * (COLUMNS // 4) + tl.arange(0, COLUMNS // 4)
    acc = tl.zeros([BLOCK_B, COLUMNS], tl.float32)
    for b0 in range(0, B, BLOCK_B):
        b = b0 + tl.arange(0, BLOCK_B)
        m = b * rows + row
        inside = (b < B)[:, None] & (d < D)[None, :]
        offsets = m.to(tl.int64)[:, None] * D + d[None, :]
        grad = tl.load(grad_out_ptr + offsets, mask=inside, other=0.0).to(tl.float32)
        if DROPOUT:
            kept = keep_tile(row_key(seed_ptr, m), groups, threshold) | (row < TOKEN)
            grad = tl.where(kept, grad * tl.where(row < TOKEN, 1.0, keep_scale), 0.0)
            tl.store(grad_ptr + offsets, grad.to(grad_ptr.dtype.element_ty), mask=inside)
        acc += grad
    tl.store(sums_ptr + row * D + d, tl.sum(acc, 0), mask=d < D)


@triton.jit
def patch_embed_starts(
    kept_ptr,  # (K,) int64, (B, K) if PER_ITEM, or None without KEPT
    starts_ptr,  # (R,) int64, written; R is M or more
    M,
    K,
    GH,  # patches along H
    GW,  # patches along W
    stride_b,  # of the signal, in numbers
    stride_t,
    stride_h,
    R,
    ALIGN: tl.constexpr,
    KEPT: tl.constexpr,
    PER_ITEM: tl.constexpr,
    TOKEN: tl.constexpr,
    PT: tl.constexpr,
    PH: tl.constexpr,
    PW: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Where the patch of each output row begins in the signal, in units of ALIGN numbers; -1 for rows without a patch.
    Once, and not in each step of each program of the next kernel: four divisions a row. The units tell the compiler how
    wide it may read."""
    m = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    rows = K + TOKEN
    b, k = m // rows, m % rows - TOKEN
    patches = (m < M) & (k >= 0)
    _, start = patch_start(kept_ptr, b, k, K, GH, GW, stride_b, stride_t, stride_h, KEPT, PER_ITEM, False, PT, PH, PW,
                           patches)  # fmt: skip
    tl.store(starts_ptr + m, tl.where(patches, start // ALIGN, -1), mask=m < R)


@triton.jit
def patch_embed_weight(
    x_ptr,  # (B, T, H, W)
    starts_ptr,  # (blocks of rows * BLOCK_M,) int64
    grad_out_ptr,  # (M, D), g
    grad_weight_ptr,  # (S, D, P) float32, written
    M,
    D,
    stride_t,  # of the signal, in numbers
    stride_h,
    UINT8: tl.constexpr,
    ALIGN: tl.constexpr,  # numbers in a unit of ``starts``
    PT: tl.constexpr,
    PH: tl.constexpr,
    PW: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Partial sums of dW: program (tile, s) of S adds every S-th block of rows."""
    P: tl.constexpr = PT * PH * PW
    across = tl.cdiv(D, BLOCK_D)
    p = tl.program_id(0) // across * BLOCK_P + tl.arange(0, BLOCK_P)
    d = tl.program_id(0) % across * BLOCK_D + tl.arange(0, BLOCK_D)
    signal = x_ptr + inside_patch(p, stride_t, stride_h, PH, PW)[None, :]
    row = tl.arange(0, BLOCK_M)
    grads = grad_out_ptr + row[:, None] * D + d[None, :]
    kind = grad_out_ptr.dtype.element_ty
    acc = tl.zeros([BLOCK_D, BLOCK_P], tl.float32)
    for block in range(tl.program_id(1), tl.cdiv(M, BLOCK_M), tl.num_programs(1)):
        start = tl.load(starts_ptr + block * BLOCK_M + row)
        patches = (start >= 0)[:, None]
        # Without a patch a byte is not 0 here, but the gradient is.
        x = tl.load(signal + (start * ALIGN)[:, None], mask=patches & (p < P)[None, :], other=0)
        grad = tl.load(grads + tl.cast(block, tl.int64) * (BLOCK_M * D), mask=patches & (d < D)[None, :], other=0.0)
        acc = tl.dot(tl.trans(grad), centred(x, kind, UINT8), acc, input_precision=PRECISION)
    if UINT8:
        acc *= spread(kind) / 127.5
    own = tl.program_id(1).to(tl.int64) * D * P
    target = grad_weight_ptr + own + d[:, None] * P + p[None, :]
    tl.store(target, acc, mask=(d < D)[:, None] & (p < P)[None, :])


@triton.jit
def patch_embed_positions(
    order_ptr,  # (items * K,) int64: rows without those of the token, sorted by patch
    bounds_ptr,  # (N + 1,) int64: where each patch begins in ``order``
    grad_ptr,  # (items * (K + TOKEN), D): g, or its sums over items that share the kept patches, as one item
    grad_positions_ptr,  # (N, D) float32, written
    K,
    D,
    TOKEN: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """dpos: the sum of the rows that read each position, in a fixed order. A program: one position."""
    n = tl.program_id(0)
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    first, last = tl.load(bounds_ptr + n), tl.load(bounds_ptr + n + 1)
    acc = tl.zeros([BLOCK_R, BLOCK_D], tl.float32)
    for r0 in range(first, last, BLOCK_R):
        r = r0 + tl.arange(0, BLOCK_R)
        index = tl.load(order_ptr + r, mask=r < last, other=0).to(tl.int32)
        m = index // K * (K + TOKEN) + index % K + TOKEN
        inside = (r < last)[:, None] & (d < D)[None, :]
        acc += tl.load(grad_ptr + m.to(tl.int64)[:, None] * D + d[None, :], mask=inside, other=0.0).to(tl.float32)
    tl.store(grad_positions_ptr + n.to(tl.int64) * D + d, tl.sum(acc, 0), mask=d < D)
