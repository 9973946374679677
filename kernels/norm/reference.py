"""Norms in plain PyTorch. The native functions keep their statistics in float32 for half-precision inputs."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..dropout import dropout


def layer_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    residual: Tensor | None,
    dropout_p: float,
    seed: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """The normed tensor; with a residual the sum and the normed sum."""
    if residual is None:
        return F.layer_norm(x, weight.shape, weight, bias, eps)
    total = dropout(x, dropout_p, seed) + residual
    return total, F.layer_norm(total, weight.shape, weight, bias, eps)


def rms_norm(
    x: Tensor,
    weight: Tensor,
    eps: float,
    residual: Tensor | None,
    dropout_p: float,
    seed: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """As `layer_norm`."""
    if residual is None:
        return F.rms_norm(x, weight.shape, weight, eps)
    total = dropout(x, dropout_p, seed) + residual
    return total, F.rms_norm(total, weight.shape, weight, eps)
