"""The mask of `dropout.py` inside a Triton kernel."""

from __future__ import annotations

import triton
import triton.language as tl

GOLDEN: tl.constexpr = tl.constexpr(0x9E3779B9)
M1: tl.constexpr = tl.constexpr(0x7FEB352D)
MA: tl.constexpr = tl.constexpr(0x846CA68B)
MB: tl.constexpr = tl.constexpr(0x31848BAB)


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


@triton.jit
def _mix(x):
    x = x ^ (x >> 16)
    x = x * M1
    x = x ^ (x >> 15)
    x = x * MA
    return x ^ (x >> 16)
