"""Factorised position tables: one learned table an axis, summed, then a layer norm of the sum.

Shapes: N all patches, D width.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from vatt.kernels.norm import layer_norm
from vatt.models.initialize import truncated_normal
from vatt.models.layers import parameter
from vatt.models.spline import resample

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

    Tokens lie time-slowest, but token i takes the temporal row i mod T and the spectral row i div T. The official code
    was trained so; the natural order would not match its weights.
    """

    def _sum(self, tables: list[Tensor]) -> Tensor:
        temporal, spectoral = tables
        return super()._sum([spectoral, temporal])
