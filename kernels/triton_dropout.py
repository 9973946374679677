"""The mask of `dropout.py` inside a Triton kernel."""

from __future__ import annotations

import triton
import triton.language as tl

from . import dropout
from .runtime import interpreting

ASSEMBLY: tl.constexpr = tl.constexpr(not interpreting())  # the interpreter knows no inline assembly
GOLDEN: tl.constexpr = tl.constexpr(dropout.GOLDEN)
M1: tl.constexpr = tl.constexpr(dropout.M1)
MA: tl.constexpr = tl.constexpr(dropout.MA)
MB: tl.constexpr = tl.constexpr(dropout.MB)
SPREAD: tl.constexpr = tl.constexpr(dropout.SPREAD)
SMALL: tl.constexpr = tl.constexpr(dropout.SMALL)


@triton.jit
def row_key(seed_ptr, rows):
    """Keys of rows, uint32. ``rows`` must be below 2^32."""
    seed = tl.load(seed_ptr)
    low = (seed & 0xFFFFFFFF).to(tl.uint32)
    high = ((seed >> 32) & 0xFFFFFFFF).to(tl.uint32)
    key = _mix(_mix(rows.to(tl.uint32) ^ low) ^ high)
    return key ^ (key >> 16)


@triton.jit
def group_key(groups):
    """Keys of groups of columns, uint32."""
    key = groups.to(tl.uint32) * GOLDEN
    return key ^ (key >> 16)


@triton.jit
def shared_hash(keys, group_keys):
    """What the lanes of a group have in common, uint32: `row_key` and `group_key`, broadcast."""
    x = (keys ^ group_keys) * M1
    return x ^ (x >> 15)


@triton.jit
def lane_pair(shared, multiplier):
    """Two lanes, in the low and the high half: 0 and 1 with MA, 2 and 3 with MB."""
    x = shared * multiplier
    return x ^ (x >> 16)


@triton.jit
def keep(keys, columns, threshold):
    """Booleans, True for kept elements; ``keys`` from `row_key`, both broadcast. Every element computes its own hash:
    for tiles that do not hold four neighbouring columns in one thread."""
    shared = shared_hash(keys, group_key(columns >> 2))
    odd = (columns & 2) != 0
    pair = lane_pair(shared, tl.where(odd, tl.full([], MB, tl.uint32), tl.full([], MA, tl.uint32)))
    return ((pair >> ((columns & 1) * 16).to(tl.uint32)) & 0xFFFF).to(tl.int32) >= threshold


# Attention: queries r and r + 8 with keys c and c + 8 are a group. See `tile_keep_mask` of dropout.py.


@triton.jit
def group_first(n0, BLOCK: tl.constexpr):
    """Of BLOCK tokens from ``n0`` on, multiples of 16, the first of each group (BLOCK // 2,): 0 to 7, 16 to 23, ..."""
    i = tl.arange(0, BLOCK // 2)
    return n0 + ((i >> 3) * 16 + (i & 7))


@triton.jit
def group_hash(row_keys, n0, BLOCK: tl.constexpr, TRANSPOSED: tl.constexpr):
    """Hashes (queries, keys), or (keys, queries) if TRANSPOSED, uint32, of which the high half counts.

    ``row_keys``: `row_key` of the groups of queries (queries // 2,). ``n0``: the first of BLOCK keys, a multiple of
    BLOCK, a power of two from 16 to 128.
    """
    tl.static_assert(BLOCK <= 128)
    ROWS: tl.constexpr = row_keys.shape[0]
    # The key of a column is a xor of three parts: what changes from step to step is a scalar, what differs between the
    # registers of a thread are constants, which leaves one instruction a group.
    first = (tl.cast(n0 >> 7, tl.uint32) * GOLDEN) ^ (tl.cast(n0 & 0x70, tl.uint32) * SPREAD)
    within = tl.arange(0, 8).to(tl.uint32) * SMALL
    of_16 = (tl.arange(0, BLOCK // 16) * 16).to(tl.uint32) * SPREAD
    if TRANSPOSED:
        x = row_keys[None, None, :] ^ (of_16[:, None] ^ (within ^ first)[None, :])[:, :, None]
    else:
        x = (row_keys[:, None] ^ (within ^ first)[None, :])[:, None, :] ^ of_16[None, :, None]
    x *= M1
    x ^= x >> 15
    # The two `lane_pair`s, of queries r and r + 8, each for keys c and c + 8, in high halves: one is there already.
    a, b = x * MA, x * MB
    upper, lower = tl.join((a << 16) ^ (a & 0xFFFF0000), a), tl.join((b << 16) ^ (b & 0xFFFF0000), b)
    x = tl.join(upper, lower)
    if TRANSPOSED:  # (BLOCK // 16, 8, ROWS, key, query)
        x = x.reshape(BLOCK // 16, 8, ROWS // 8, 8, 2, 2).permute(0, 4, 1, 2, 5, 3)
        x = x.reshape(BLOCK, 2 * ROWS)
    else:  # (ROWS, BLOCK // 16, 8, key, query)
        x = x.reshape(ROWS // 8, 8, BLOCK // 16, 8, 2, 2).permute(0, 5, 1, 2, 4, 3)
        x = x.reshape(2 * ROWS, BLOCK)
    return x


@triton.jit
def dropped(x, hashes, threshold):
    """``x`` float32 where the high halves of ``hashes`` reach ``threshold``, else 0.

    At a rate of 1 the shifted threshold overflows and all are kept: what is kept is multiplied with 0 then. By
    assembly, since LLVM packs the results of the comparisons into bits and takes them out again.
    """
    least = tl.cast(threshold, tl.uint32) << 16
    if ASSEMBLY:
        y = tl.inline_asm_elementwise(
            "{ .reg .pred p; setp.ge.u32 p, $2, $3; selp.f32 $0, $1, 0f00000000, p; }",
            "=r,r,r,r",
            [x, hashes, least],
            dtype=tl.float32,
            is_pure=True,
            pack=1,
        )
    else:
        y = tl.where(hashes >= least, x, 0.0)
    return y


# Elementwise kernels and products: four neighbouring columns are a group.


@triton.jit
def keep_tile(keys, groups, threshold):
    """Booleans (R, 4 G), True for kept elements of a tile: ``keys`` (R,) from `row_key`, ``groups`` (G,) its columns
    divided by four, from the first to the last. A hash is computed once for four elements: for tiles that hold at least
    four neighbouring columns in one thread. As `keep`, for a ``threshold`` above 0."""
    shared = shared_hash(keys[:, None], group_key(groups)[None, :])
    kept = _halves(tl.join(shared * MA, shared * MB), threshold)
    return tl.reshape(kept, [keys.shape[0], 4 * groups.shape[0]])


@triton.jit
def keep_pairs(keys, pairs, threshold):
    """As `keep_tile`, with a hash for two elements: for accumulators of a matrix product, where a thread holds two
    neighbouring columns. ``pairs`` (C,): columns divided by two."""
    shared = shared_hash(keys[:, None], group_key(pairs >> 1)[None, :])
    odd = (pairs & 1) != 0
    multiplier = tl.where(odd, tl.full([], MB, tl.uint32), tl.full([], MA, tl.uint32))
    kept = _halves(shared * multiplier[None, :], threshold)
    return tl.reshape(kept, [keys.shape[0], 2 * pairs.shape[0]])


@triton.jit
def _halves(product, threshold):
    """Booleans (..., 2): whether the low and the high half of `lane_pair` are kept, compared at the top of 32 bits. The
    high half of the pair is that of the product. A threshold of 2^16 becomes 2^32 - 1, above all."""
    below = (tl.cast(threshold, tl.uint32) << 16) - 1
    return tl.join(((product << 16) ^ (product & 0xFFFF0000)) > below, product > below)


@triton.jit
def _mix(x):
    x = x ^ (x >> 16)
    x = x * M1
    x = x ^ (x >> 15)
    x = x * MA
    return x ^ (x >> 16)
