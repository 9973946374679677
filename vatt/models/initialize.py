"""Initial values as in the official (Keras) code."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

# Keras divides the wanted standard deviation by that of a normal cut at two sigma, where it says "glorot_normal".
_CUT_STD = 0.87962566103423978


@torch.no_grad()
def glorot_uniform(weight: Tensor, fan_in: int, fan_out: int) -> Tensor:
    """Uniform in +-sqrt(6 / (fan_in + fan_out)): kernels of dense and convolution layers."""
    bound = math.sqrt(6.0 / (fan_in + fan_out))
    return weight.uniform_(-bound, bound)


@torch.no_grad()
def truncated_normal(weight: Tensor, std: float) -> Tensor:
    """Normal of ``std`` before it is cut at two sigma: position tables, with std = d_model ** -0.5."""
    return nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)


@torch.no_grad()
def glorot_normal_vector(weight: Tensor) -> Tensor:
    """Glorot normal of a vector (D,), whose fans are both D: aggregation tokens."""
    return truncated_normal(weight, weight.shape[0] ** -0.5 / _CUT_STD)


@torch.no_grad()
def embedding_uniform(weight: Tensor, reach: float = 0.05) -> Tensor:
    """Uniform in +-``reach``; 0.05 is Keras' default for embedding tables (words, relative biases)."""
    return weight.uniform_(-reach, reach)
