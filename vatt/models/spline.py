"""Resampling of position tables with a polyharmonic spline of order 3 (tfa.image.interpolate_spline).

With N rows at i/N and n queries at j/n, the spline is sum_i w_i |x - i/N|^3 plus a linear polynomial, through all rows.
It is linear in the table: resampled = M table, where M (n, N) depends on the two sizes alone.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=64)
def spline_matrix(buckets: int, length: int) -> Tensor:
    """M, float32 (length, buckets) on the CPU; solved in float64.

    The official code solves in float32. Its error grows with the number of buckets, and a table of 1,200 rows becomes
    useless; the float64 solution is what it approximates.
    """
    if buckets == 1:  # one point defines no line: constant
        return torch.ones(length, 1)
    source = torch.arange(buckets, dtype=torch.float64) / buckets
    query = torch.arange(length, dtype=torch.float64) / length
    system = torch.zeros(buckets + 2, buckets + 2, dtype=torch.float64)
    system[:buckets, :buckets] = (source[:, None] - source[None, :]).abs() ** 3
    system[:buckets, buckets] = system[buckets, :buckets] = source
    system[:buckets, buckets + 1] = system[buckets + 1, :buckets] = 1.0
    values = torch.eye(buckets + 2, buckets, dtype=torch.float64)  # a row of the table is 1, the side conditions are 0
    weights = torch.linalg.solve(system, values)
    radial = (query[:, None] - source[None, :]).abs() ** 3
    basis = torch.cat([radial, query[:, None], torch.ones(length, 1, dtype=torch.float64)], dim=1)
    return (basis @ weights).to(torch.float32)


def resample(table_ND: Tensor, length: int) -> Tensor:
    """The table at ``length`` positions, (length, D); the table itself if it has that many rows.

    A shorter input does not take the first rows: it sees the whole table compressed. Differentiable.
    """
    if table_ND.shape[0] == length:
        return table_ND
    wide = torch.promote_types(table_ND.dtype, torch.float32)
    matrix = spline_matrix(table_ND.shape[0], length).to(table_ND.device, wide)
    return (matrix @ table_ND.to(wide)).to(table_ND.dtype)
