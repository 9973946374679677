"""The perceptron in plain PyTorch."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..dropout import dropout


def mlp(
    x: Tensor,
    weight_in: Tensor,
    bias_in: Tensor | None,
    weight_out: Tensor,
    bias_out: Tensor | None,
    dropout_p: float,
    seed: Tensor | None = None,
) -> Tensor:
    """dropout(gelu(x W_in^T + b_in)) W_out^T + b_out, (..., D)."""
    return F.linear(dropout(dense_gelu(x, weight_in, bias_in), dropout_p, seed), weight_out, bias_out)


def dense_gelu(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """gelu(x W^T + b), (..., M)."""
    return F.gelu(F.linear(x, weight, bias))
