"""Norms in plain PyTorch. The native functions keep their statistics in float32 for half-precision inputs."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def layer_norm(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, residual: Tensor | None, dropout_p: float
) -> Tensor | tuple[Tensor, Tensor]:
    """The normed tensor; with a residual the sum and the normed sum."""
    if residual is None:
        return F.layer_norm(x, weight.shape, weight, bias, eps)
    total = _sum(x, residual, dropout_p)
    return total, F.layer_norm(total, weight.shape, weight, bias, eps)


def rms_norm(
    x: Tensor, weight: Tensor, eps: float, residual: Tensor | None, dropout_p: float
) -> Tensor | tuple[Tensor, Tensor]:
    """As `layer_norm`."""
    if residual is None:
        return F.rms_norm(x, weight.shape, weight, eps)
    total = _sum(x, residual, dropout_p)
    return total, F.rms_norm(total, weight.shape, weight, eps)


def _sum(x: Tensor, residual: Tensor, dropout_p: float) -> Tensor:
    return (F.dropout(x, dropout_p) if dropout_p > 0 else x) + residual
