"""Mixup and label smoothing with the official conventions (data/processing.py).

Shapes: B batch, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Mix:
    """How the items of a batch are mixed: item i with item ``permutation[i]``, keeping the share ``lam[i]``.

    ``permutation`` int64 (B,), one for the whole batch; ``lam`` float (B,).
    """

    permutation: Tensor
    lam: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """lam * x + (1 - lam) * x[permutation] for floating-point x (B, ...): inputs or labels."""
        if x.shape[0] != self.lam.shape[0]:
            raise ValueError(f"x: expected {self.lam.shape[0]} items, got {tuple(x.shape)}")
        lam = self.lam.to(x).view(-1, *[1] * (x.ndim - 1))
        return lam * x + (1 - lam) * x[self.permutation.to(x.device)]


def draw_mix(batch: int, alpha: float = 5.0, beta: float = 2.0, generator: torch.Generator | None = None) -> Mix:
    """Draws lam ~ Beta(alpha, beta) for each item, and a permutation.

    The official function has (5, 2) as defaults; its fine-tuning loaders pass (5, 5), as the paper says, and its
    pretraining loader (10, 2), both off by default.

    Raises:
        ValueError: ``alpha`` or ``beta`` is not positive.
    """
    if alpha <= 0 or beta <= 0:
        raise ValueError(f"alpha, beta: must be > 0, got {alpha}, {beta}")
    # A Beta variable from two Gamma variables: torch's Beta takes no generator.
    shapes = torch.tensor([alpha, beta], dtype=torch.float64).expand(batch, 2).contiguous()
    gammas = torch._standard_gamma(shapes, generator=generator)
    lam = (gammas[:, 0] / gammas.sum(1)).to(torch.float32)
    return Mix(torch.randperm(batch, generator=generator), lam)


def smooth_labels(labels: Tensor, alpha: float) -> Tensor:
    """(1 - alpha) * labels + alpha / K for single-label targets (B, K). Official order: before `Mix`.

    Raises:
        ValueError: ``alpha`` is outside [0, 1].
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha: must be in [0, 1], got {alpha}")
    return (1 - alpha) * labels + alpha / labels.shape[-1]


def split_windows(waveform: Tensor, windows: int) -> Tensor:
    """One waveform (L, ...) as ``windows`` equal parts (windows, L // windows, ...).

    Raises:
        ValueError: L is no multiple of ``windows``.
    """
    if windows < 1 or waveform.shape[0] % windows:
        raise ValueError(f"windows: {waveform.shape[0]} samples are no multiple of {windows}")
    return waveform.unflatten(0, (windows, -1))
