"""The mask of `dropout.py` inside a Triton kernel."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def row_key(seed_ptr, rows):
    """Keys of rows, uint32. ``rows`` must be below 2^32."""
    seed = tl.load(seed_ptr)
    low = (seed & 0xFFFFFFFF).to(tl.uint32)
    high = ((seed >> 32) & 0xFFFFFFFF).to(tl.uint32)
    return _mix(_mix(rows.to(tl.uint32) ^ low) ^ high)


@triton.jit
def keep(keys, columns, threshold):
    """Booleans, True for kept elements; ``keys`` from `row_key`, both broadcast."""
    hashed = _mix(keys ^ (columns.to(tl.uint32) * 0x9E3779B9))
    return (hashed >> 8).to(tl.int32) >= threshold


@triton.jit
def _mix(x):
    x = x ^ (x >> 16)
    x = x * 0x7FEB352D
    x = x ^ (x >> 15)
    x = x * 0x846CA68B
    return x ^ (x >> 16)
