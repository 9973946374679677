"""Relative position bias of T5 (official modeling/backbones/text/t5.py)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vatt.models.initialize import embedding_uniform


def relative_buckets(length: int, num_buckets: int, max_distance: int, device: torch.device | None = None) -> Tensor:
    """Bucket of each (query, key) pair, int64 (length, length).

    Half of the buckets are for keys to the right of the query (the upper half) and half for the others. The lower half
    of each direction is exact, the rest is logarithmic up to ``max_distance``, and clamped.
    """
    position = torch.arange(length, device=device)
    offset = position[None, :] - position[:, None]
    direction = num_buckets // 2
    exact = direction // 2
    distance = offset.abs()
    # In float32, like the official code: a logarithm that lands beside an integer picks the bucket.
    ratio = (distance.to(torch.float32) / exact).log() / math.log(max_distance / exact)
    far = (exact + (ratio * (direction - exact)).to(torch.int64)).clamp(max=direction - 1)
    return torch.where(distance < exact, distance, far) + direction * (offset > 0)


class RelativeBias(nn.Module):
    """A learned bias for each bucket and head."""

    def __init__(self, num_buckets: int, max_distance: int, num_heads: int) -> None:
        super().__init__()
        self.num_buckets, self.max_distance = num_buckets, max_distance
        self.table = nn.Parameter(embedding_uniform(torch.empty(num_buckets, num_heads)))

    def forward(self, length: int) -> Tensor:
        """(H, length, length), to be added to the attention scores."""
        buckets = relative_buckets(length, self.num_buckets, self.max_distance, self.table.device)
        return self.table[buckets].permute(2, 0, 1)
