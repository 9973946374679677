"""Factorised position tables: one learned table per axis, summed, then a layer norm of the sum.

A table is resampled with a spline for an input of another size than it was made for.

Shapes: N all patches, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import torch
from torch import Tensor, nn

from vatt.kernels.norm import layer_norm
from vatt.models.layers import parameter, truncated_normal

EPSILON = 1e-6  # of the layer norm; the configured epsilon does not reach it in the official code


class Positions(nn.Module):
    """Position rows for a grid of patches (official modeling/common/transformers.py).

    A table is resampled when the number of patches along its axis differs from its number of buckets; the paper speaks
    of bi-cubic interpolation, the official code has a polyharmonic spline. The layer norm comes after that; the paper
    has a plain sum of the tables. The table called vertical belongs to the height and the one called horizontal to the
    width (the paper's equation 1 has them the other way round).
    """

    def __init__(self, buckets: Mapping[str, int], d_model: int, backend: str = "auto") -> None:
        """``buckets``: rows of the table of each axis, by name, the slowest axis first."""
        super().__init__()
        self.axes = tuple(buckets)
        for axis, count in buckets.items():
            self.register_parameter(axis, nn.Parameter(truncated_normal(torch.empty(count, d_model), d_model**-0.5)))
        self.norm_weight = nn.Parameter(torch.ones(d_model))
        self.norm_bias = parameter(d_model)
        self.backend = backend

    @property
    def buckets(self) -> tuple[int, ...]:
        """Rows of each table."""
        return tuple(getattr(self, axis).shape[0] for axis in self.axes)

    def forward(self, grid: tuple[int, ...]) -> Tensor:
        """Rows (N, D) for ``grid`` patches along each axis, N = product of ``grid``, the last axis fastest."""
        total = self._sum([resample(getattr(self, a), n) for a, n in zip(self.axes, grid, strict=True)])
        return layer_norm(total, self.norm_weight, self.norm_bias, EPSILON, backend=self.backend)

    def _sum(self, tables: list[Tensor]) -> Tensor:
        total = tables[0]
        for table in tables[1:]:
            total = (total[:, None, :] + table[None, :, :]).flatten(0, 1)
        return total


class SpectrogramPositions(Positions):
    """The spectrogram model's order of positions, which does not follow the order of its tokens.

    Tokens are ordered with time slowest, but token i takes the temporal row i mod T and the spectral row i div T. The
    official code was trained so; the natural order would not match its weights.
    """

    def _sum(self, tables: list[Tensor]) -> Tensor:
        temporal, spectoral = tables
        return super()._sum([spectoral, temporal])


def resample(table_ND: Tensor, length: int) -> Tensor:
    """The table at ``length`` positions, (length, D); the table itself if it has that many rows.

    A shorter input does not take the first rows: it sees the whole table compressed. Differentiable.
    """
    if table_ND.shape[0] == length:
        return table_ND
    dtype = torch.promote_types(table_ND.dtype, torch.float32)
    # Copied to a GPU once: it would make the host wait in each step. Fake tensors must not get into either cache.
    if type(table_ND) in (Tensor, nn.Parameter):
        matrix = _spline_matrix_on(table_ND.shape[0], length, table_ND.device, dtype)
    else:
        matrix = spline_matrix.__wrapped__(table_ND.shape[0], length).to(table_ND.device, dtype)
    return (matrix @ table_ND.to(dtype)).to(table_ND.dtype)


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # what is cached in inference must also serve training
def _spline_matrix_on(buckets: int, length: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    return spline_matrix(buckets, length).to(device, dtype)


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def spline_matrix(buckets: int, length: int) -> Tensor:
    """The matrix M of a resampling: ``M @ table`` has ``length`` rows. Float32 (length, buckets) on the CPU.

    A polyharmonic spline of order 3 (tfa.image.interpolate_spline), sum_i w_i |x - i / N|^3 plus a linear polynomial,
    goes through all N = ``buckets`` rows at i / N and is read at the n = ``length`` positions j / n. It is linear in
    the table, so M depends on the two sizes alone. It is solved in float64.

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
