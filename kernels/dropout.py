"""Dropout whose mask is a function of (seed, row, column): recomputed in the backward pass, never stored.

A counter-based hash decides: two rounds of multiply and xor-shift (the 32-bit mixer "lowbias32" of Chris Wellons'
hash-prospector) on a key of seed and row, combined with the column. Philox, which PyTorch and `tl.rand` use, costs
about 80 integer instructions per number, more than the arithmetic around it; this costs about 9. This file is the
plain PyTorch twin of `triton_dropout.py`, and equal to it bit by bit.
"""

from __future__ import annotations

import torch
from torch import Tensor

GOLDEN = 0x9E3779B9
LEVELS = 1 << 24  # probabilities are multiples of 2^-24


def draw_seed(device: torch.device) -> Tensor:
    """A seed (1,), int64, from PyTorch's generator of ``device``: no synchronisation, and replayed by checkpointing."""
    return torch.randint(0, 1 << 62, (1,), device=device, dtype=torch.int64)


def threshold(p: float) -> int:
    """Elements whose hash (24 bits) is below this are dropped."""
    return round(p * LEVELS)


def keep_scale(p: float) -> float:
    """What a kept element is multiplied with; 0 when nothing is kept."""
    dropped = threshold(p)
    return LEVELS / (LEVELS - dropped) if dropped < LEVELS else 0.0


def keep_mask(seed: Tensor, rows: Tensor, columns: Tensor, p: float) -> Tensor:
    """Booleans, True for kept elements: ``rows`` and ``columns`` are integer tensors that broadcast to the shape."""
    low, high = seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF
    key = _mix(_mix(rows ^ low) ^ high)
    hashed = _mix(key ^ ((columns * GOLDEN) & 0xFFFFFFFF))
    return (hashed >> 8) >= threshold(p)


def _mix(x: Tensor) -> Tensor:
    x = x & 0xFFFFFFFF
    x = x ^ (x >> 16)
    x = (x * 0x7FEB352D) & 0xFFFFFFFF
    x = x ^ (x >> 15)
    x = (x * 0x846CA68B) & 0xFFFFFFFF
    return x ^ (x >> 16)
