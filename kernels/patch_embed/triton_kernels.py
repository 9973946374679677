"""Patch embedding as one implicit matrix product: kept patches are read where they lie in the signal.

A signal is seen as (B, T, H, W) with W the contiguous axis, channels included; a patch is (PT, PH, PW) of it and is
flattened in that order. Shapes: B batch, K kept patches, N all patches, P numbers in a patch, D width, M output rows
(tokens and the aggregation token of all items), S parts of a loop. Every tensor is contiguous.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..triton_dropout import keep, row_key


@triton.jit
def patch_start(kept_ptr, b, k, K, GH, GW, stride_b, stride_t, stride_h, KEPT: tl.constexpr, PER_ITEM: tl.constexpr,
                PT: tl.constexpr, PH: tl.constexpr, PW: tl.constexpr, valid):  # fmt: skip
    """Index of the k-th kept patch of item b, and the offset of its first number."""
    index = k.to(tl.int64)
    if KEPT:
        at = k.to(tl.int64)
        if PER_ITEM:
            at += b.to(tl.int64) * K
        index = tl.load(kept_ptr + at, mask=valid, other=0)
    t, rest = index // (GH * GW), index % (GH * GW)
    start = b.to(tl.int64) * stride_b + t * (PT * stride_t) + (rest // GW) * (PH * stride_h) + (rest % GW) * PW
    return index, start


@triton.jit
def inside_patch(p, stride_t, stride_h, PH: tl.constexpr, PW: tl.constexpr):
    """Offset of number ``p`` of a patch from its first one."""
    line = p // PW
    return (line // PH) * stride_t + (line % PH) * stride_h + p % PW


@triton.jit
def centred(x, kind, UINT8: tl.constexpr):
    """Bytes minus 127.5, exact in every type; the division by 127.5 follows after the sum. Floats as they are."""
    if UINT8:
        x = x.to(tl.float32) - 127.5
    return x.to(kind)


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
    BIAS: tl.constexpr,
    POSITIONS: tl.constexpr,
    TOKEN: tl.constexpr,
    DROPOUT: tl.constexpr,
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
    m = tl.program_id(0) // across * BLOCK_M + tl.arange(0, BLOCK_M)
    d = tl.program_id(0) % across * BLOCK_D + tl.arange(0, BLOCK_D)
    rows = K + TOKEN
    b, k = m // rows, m % rows - TOKEN
    patches = (m < M) & (k >= 0)
    index, start = patch_start(kept_ptr, b, k, K, GH, GW, stride_b, stride_t, stride_h, KEPT, PER_ITEM, PT, PH, PW,
                               patches)  # fmt: skip
    kind = weight_ptr.dtype.element_ty
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    for p0 in range(0, P, BLOCK_P):
        p = p0 + tl.arange(0, BLOCK_P)
        offsets = start[:, None] + inside_patch(p, stride_t, stride_h, PH, PW)[None, :]
        x = tl.load(x_ptr + offsets, mask=patches[:, None] & (p < P)[None, :], other=0)
        w = tl.load(weight_ptr + d[:, None] * P + p[None, :], mask=(d < D)[:, None] & (p < P)[None, :], other=0.0)
        acc = tl.dot(centred(x, kind, UINT8), tl.trans(w), acc, input_precision=PRECISION)
    if UINT8:
        acc *= 1.0 / 127.5
    if BIAS:
        acc += tl.load(bias_ptr + d, mask=d < D, other=0.0).to(tl.float32)[None, :]
    inside = (m < M)[:, None] & (d < D)[None, :]
    if POSITIONS:
        of_patch = patches[:, None] & (d < D)[None, :]
        acc += tl.load(positions_ptr + index[:, None] * D + d[None, :], mask=of_patch, other=0.0).to(tl.float32)
    if DROPOUT:
        acc = tl.where(keep(row_key(seed_ptr, m)[:, None], d[None, :], threshold), acc * keep_scale, 0.0)
    if TOKEN:
        token = tl.load(token_ptr + d, mask=d < D, other=0.0).to(tl.float32)
        acc = tl.where((k < 0)[:, None], token[None, :], acc)
    out = out_ptr + m.to(tl.int64)[:, None] * D + d[None, :]
    tl.store(out, acc.to(out_ptr.dtype.element_ty), mask=inside)


# Backward. A row m of the output that holds patch n = kept[b, k] is out_m = c z_m (W x_n + b + pos_n), where the
# dropout mask z is 0 or 1 and c = 1 / (1 - its rate); the row of the aggregation token is the token. So with
# g_m = c z_m dout_m:
#
#     dW     = sum over rows of g_m x_n^T; of bytes x = (u - 127.5) / 127.5, whose division follows after the sum
#     dpos_n = sum of g_m over the rows that hold patch n
#     db     = sum over rows of g_m = sum over n of dpos_n
#     dtoken = sum over items of the rows of the token
#
# The first kernel gives g (without dropout, dout is g), the second dW, the third dpos. The signal has no gradient.


@triton.jit
def patch_embed_dropped(
    grad_out_ptr,  # (M, D)
    seed_ptr,  # (1,) int64
    grad_ptr,  # (M, D), written
    M,
    D,
    rows,  # of an item: K and the token
    threshold,
    keep_scale,
    TOKEN: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """g, the gradient in front of the dropout. One pass: the kernels below read it many times."""
    m = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    d = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = (m < M)[:, None] & (d < D)[None, :]
    offsets = m.to(tl.int64)[:, None] * D + d[None, :]
    grad = tl.load(grad_out_ptr + offsets, mask=inside, other=0.0).to(tl.float32)
    kept = keep(row_key(seed_ptr, m)[:, None], d[None, :], threshold)
    dropped = tl.where(kept, grad * keep_scale, 0.0)
    grad = tl.where((m % rows < TOKEN)[:, None], grad, dropped)
    tl.store(grad_ptr + offsets, grad.to(grad_ptr.dtype.element_ty), mask=inside)


@triton.jit
def patch_embed_weight(
    x_ptr,  # (B, T, H, W)
    kept_ptr,  # (K,) int64, (B, K) if PER_ITEM, or None without KEPT
    grad_out_ptr,  # (M, D), g
    grad_weight_ptr,  # (S, D, P) float32, written
    M,
    K,
    D,
    GH,  # patches along H
    GW,  # patches along W
    stride_b,  # of the signal, in numbers
    stride_t,
    stride_h,
    UINT8: tl.constexpr,
    KEPT: tl.constexpr,
    PER_ITEM: tl.constexpr,
    TOKEN: tl.constexpr,
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
    inner = inside_patch(p, stride_t, stride_h, PH, PW)
    rows = K + TOKEN
    kind = grad_out_ptr.dtype.element_ty
    acc = tl.zeros([BLOCK_D, BLOCK_P], tl.float32)
    for block in range(tl.program_id(1), tl.cdiv(M, BLOCK_M), tl.num_programs(1)):
        m = block * BLOCK_M + tl.arange(0, BLOCK_M)
        b, k = m // rows, m % rows - TOKEN
        patches = (m < M) & (k >= 0)
        _, start = patch_start(kept_ptr, b, k, K, GH, GW, stride_b, stride_t, stride_h, KEPT, PER_ITEM, PT, PH, PW,
                               patches)  # fmt: skip
        x = tl.load(x_ptr + start[:, None] + inner[None, :], mask=patches[:, None] & (p < P)[None, :], other=0)
        grads = grad_out_ptr + m.to(tl.int64)[:, None] * D + d[None, :]
        grad = tl.load(grads, mask=patches[:, None] & (d < D)[None, :], other=0.0)
        acc = tl.dot(tl.trans(grad), centred(x, kind, UINT8), acc, input_precision=PRECISION)
    if UINT8:
        acc *= 1.0 / 127.5
    own = tl.program_id(1).to(tl.int64) * D * P
    target = grad_weight_ptr + own + d[:, None] * P + p[None, :]
    tl.store(target, acc, mask=(d < D)[:, None] & (p < P)[None, :])


@triton.jit
def patch_embed_positions(
    order_ptr,  # (K,) int64, (B K,) if PER_ITEM: indices into ``kept``, sorted by patch
    bounds_ptr,  # (N + 1,) int64: where each patch begins in ``order``
    grad_out_ptr,  # (M, D), g
    grad_positions_ptr,  # (N, D) float32, written
    B,
    K,
    D,
    PER_ITEM: tl.constexpr,
    TOKEN: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """dpos: the sum of the output rows that read each position, in a fixed order. A program: one position."""
    n = tl.program_id(0)
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    first, last = tl.load(bounds_ptr + n), tl.load(bounds_ptr + n + 1)
    readers = last - first
    if not PER_ITEM:
        readers = readers * B
    acc = tl.zeros([BLOCK_B, BLOCK_D], tl.float32)
    for r0 in range(0, readers, BLOCK_B):
        r = r0 + tl.arange(0, BLOCK_B)
        if PER_ITEM:
            index = tl.load(order_ptr + first + r, mask=r < readers, other=0)
            b, k = index // K, index % K
        else:
            k = tl.load(order_ptr + first + r // B, mask=r < readers, other=0)
            b = (r % B).to(tl.int64)
        m = b * (K + TOKEN) + k + TOKEN
        inside = (r < readers)[:, None] & (d < D)[None, :]
        acc += tl.load(grad_out_ptr + m[:, None] * D + d[None, :], mask=inside, other=0.0).to(tl.float32)
    tl.store(grad_positions_ptr + n.to(tl.int64) * D + d, tl.sum(acc, 0), mask=d < D)
