"""Dropout whose mask is a function of (seed, row, column): recomputed in the backward pass, never stored.

A counter-based hash decides, built on the 32-bit mixer "lowbias32" of Chris Wellons' hash-prospector. Philox, which
PyTorch and `tl.rand` use, costs about 80 integer instructions per number, more than the arithmetic around it. Here one
hash serves four neighbours, 16 bits each, so that rates are multiples of 2^-16:

    x = key of seed and row ^ key of the group of columns, each mixed once for many elements
    x = x * M1;  x ^= x >> 15
    a = x * MA;  a ^= a >> 16;  b = x * MB;  b ^= b >> 16
    lanes 0 to 3: low half of a, high half of a, low half of b, high half of b

The ratio of MA and MB has a good lattice in two dimensions (its shortest vector is 0.77 * 2^16), so the two products
are as good as independent; tests/kernels/test_dropout.py holds rates and correlations. This file is the plain PyTorch
twin of `triton_dropout.py`, and equal to it bit by bit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

GOLDEN = 0x9E3779B9  # 2^32 over the golden ratio: multiples of it lie far apart
M1, MA, MB = 0x7FEB352D, 0x846CA68B, 0x31848BAB
SPREAD = 0x02442211  # times a number of three bits: copies of it that do not overlap
SMALL = 0x85EBCA6B  # times the lowest three bits of a key's number; an odd constant of MurmurHash3
LEVELS = 1 << 16  # probabilities are multiples of 2^-16
GROUP = 4  # elements that share a hash


def draw_seed(device: torch.device) -> Tensor:
    """A seed (1,), int64, from PyTorch's generator of ``device``: no synchronisation, and replayed by checkpointing."""
    return torch.randint(0, 1 << 62, (1,), device=device, dtype=torch.int64)


def draw_seeds(count: int, device: torch.device) -> Sequence[Tensor]:
    """``count`` seeds from one launch, each (2,), of which the first number is used: views that are aligned to 16
    bytes, so that no kernel is compiled twice for them."""
    return torch.randint(0, 1 << 62, (count, 2), device=device, dtype=torch.int64).unbind(0)


def drawn(seed: Tensor | None, p: float, device: torch.device) -> Tensor | None:
    """The seed of an operation: the caller's, else a new one; None where nothing is dropped."""
    if p == 0:
        return None
    return draw_seed(device) if seed is None else seed


def check_dropout(op: str, p: float, seed: Tensor | None, device: torch.device) -> None:
    """What a kernel does not check: it would read any bytes as a seed.

    Raises:
        ValueError: ``p`` is no rate from 0 to 1, or ``seed`` is not (1,) or longer, int64, on ``device``.
    """
    if not 0 <= p <= 1:
        raise ValueError(f"{op}: dropout_p: expected 0 to 1, got {p}")
    if seed is None:
        return
    if not isinstance(seed, Tensor):
        raise ValueError(f"{op}: seed: expected a tensor (1,), int64, got {type(seed).__name__}")
    if seed.dtype != torch.int64 or seed.ndim != 1 or seed.shape[0] < 1:
        raise ValueError(f"{op}: seed: expected (1,) or longer, int64, got {tuple(seed.shape)}, {seed.dtype}")
    if seed.device != device:
        raise ValueError(f"{op}: seed: is on {seed.device}, but the other tensors are on {device}")


def threshold(p: float) -> int:
    """Elements whose lane (16 bits) is below this are dropped."""
    return round(p * LEVELS)


def keep_scale(p: float) -> float:
    """What a kept element is multiplied with; 0 when nothing is kept."""
    dropped = threshold(p)
    return LEVELS / (LEVELS - dropped) if dropped < LEVELS else 0.0


def keep_share(p: float) -> float:
    """The share of elements that are kept: 1 / `keep_scale`, and 0 when nothing is kept."""
    return (LEVELS - threshold(p)) / LEVELS


def keep_mask(seed: Tensor, rows: Tensor, columns: Tensor, p: float) -> Tensor:
    """Booleans, True for kept elements: ``rows`` and ``columns`` are integer tensors that broadcast to the shape. Four
    neighbouring columns share a hash: what a thread of an elementwise kernel holds."""
    return _lane(row_keys(seed, rows), column_keys(columns >> 2), columns & 3) >= threshold(p)


def tile_keep_mask(seed: Tensor, first: Tensor, rows: Tensor, columns: Tensor, p: float) -> Tensor:
    """As `keep_mask`, for the scores of attention: ``rows`` and ``columns`` are queries and keys within a sequence, and
    ``first`` is what their first query is counted from (head * tokens of all sequences + tokens before this one).

    Queries r and r + 8 with keys c and c + 8 share a hash: in the registers of a matrix product these four lie in one
    thread, straight and transposed.
    """
    lane = (rows >> 3 & 1) * 2 + (columns >> 3 & 1)
    return _lane(row_keys(seed, first + (rows & ~8)), tile_column_keys(columns), lane) >= threshold(p)


def tile_column_keys(columns: Tensor) -> Tensor:
    """What the keys of attention add to the keys of the rows: numbers below 2^32, the same for c and c + 8. Xors of
    parts, of which those that differ within a step of a kernel's loop are constants there (`triton_dropout.py`)."""
    return ((columns >> 7) * GOLDEN ^ (columns & 0x70) * SPREAD ^ (columns & 7) * SMALL) & 0xFFFFFFFF


def dropout(x: Tensor, p: float, seed: Tensor | None = None) -> Tensor:
    """Dropout of ``x`` (..., D) in plain PyTorch: with a ``seed`` by the mask of `keep_mask`, rows counted over all
    leading axes, else by PyTorch's generator."""
    if p == 0:
        return x
    if seed is None:
        return F.dropout(x, p)
    D = x.shape[-1]
    rows, columns = torch.arange(x.numel() // max(D, 1), device=x.device), torch.arange(D, device=x.device)
    kept = keep_mask(seed, rows[:, None], columns, p).view(x.shape)
    return torch.where(kept, x * keep_scale(p), 0.0)


def row_keys(seed: Tensor, rows: Tensor) -> Tensor:
    """What the seed and each row make of the hash: numbers below 2^32, int64."""
    low, high = seed[:1] & 0xFFFFFFFF, (seed[:1] >> 32) & 0xFFFFFFFF
    key = _mix(_mix(rows ^ low) ^ high)
    return key ^ (key >> 16)


def column_keys(groups: Tensor) -> Tensor:
    """What a group of columns adds to the keys of the rows: numbers below 2^32."""
    keys = (groups * GOLDEN) & 0xFFFFFFFF
    return keys ^ (keys >> 16)


def _lane(keys: Tensor, of_columns: Tensor, lanes: Tensor) -> Tensor:
    """The 16 bits of each element."""
    x = ((keys ^ of_columns) * M1) & 0xFFFFFFFF
    x = x ^ (x >> 15)
    x = (x * torch.where((lanes & 2) != 0, MB, MA)) & 0xFFFFFFFF
    x = x ^ (x >> 16)
    return (x >> ((lanes & 1) * 16)) & 0xFFFF


def _mix(x: Tensor) -> Tensor:
    x = x & 0xFFFFFFFF
    x = x ^ (x >> 16)
    x = (x * M1) & 0xFFFFFFFF
    x = x ^ (x >> 15)
    x = (x * MA) & 0xFFFFFFFF
    return x ^ (x >> 16)
