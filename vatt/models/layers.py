"""Building blocks, with initial values as in the official (Keras) code.

Each block owns the parameters that it hands to an operation, since ZeRO-3 gathers them module by module.

Shapes: B batch, N tokens, T = B * N, D width, H heads, E head dim, M inner width of the MLP.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vatt.kernels.attention import Segments, attention, packed_attention
from vatt.kernels.mlp import dense_gelu, mlp
from vatt.kernels.norm import layer_norm, rms_norm

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


def parameter(*shape: int) -> nn.Parameter:
    """A parameter of zeros."""
    return nn.Parameter(torch.zeros(*shape))


class Dense(nn.Module):
    """x W^T + b with W (d_out, d_in), Glorot-uniform, and an optional exact GELU."""

    def __init__(self, d_in: int, d_out: int, bias: bool = True, gelu: bool = False, backend: str = "auto") -> None:
        super().__init__()
        self.weight = nn.Parameter(glorot_uniform(torch.empty(d_out, d_in), d_in, d_out))
        self.bias = parameter(d_out) if bias else None
        self.gelu, self.backend = gelu, backend

    def forward(self, x: Tensor) -> Tensor:
        if self.gelu:
            return dense_gelu(x, self.weight, self.bias, backend=self.backend)
        return F.linear(x, self.weight, self.bias)


class LayerNorm(nn.Module):
    """The residual sum and its layer norm."""

    def __init__(self, d_model: int, eps: float, backend: str = "auto") -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d_model))
        self.bias = parameter(d_model)
        self.eps, self.backend = eps, backend

    def forward(
        self, stream: Tensor, update: Tensor | None = None, dropout_p: float = 0.0, seed: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """(..., D) and (..., D) or None -> stream + dropout(update), and this normalised."""
        if update is None:
            return stream, layer_norm(stream, self.weight, self.bias, self.eps, backend=self.backend)
        options: dict[str, Any] = dict(dropout_p=dropout_p, seed=seed, backend=self.backend)
        return layer_norm(update, self.weight, self.bias, self.eps, residual=stream, **options)


class RMSNorm(nn.Module):
    """The residual sum and its RMS norm: T5's norm, with a scale, no mean and no bias."""

    def __init__(self, d_model: int, eps: float, backend: str = "auto") -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d_model))
        self.eps, self.backend = eps, backend

    def forward(
        self, stream: Tensor, update: Tensor | None = None, dropout_p: float = 0.0, seed: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """As `LayerNorm.forward`."""
        if update is None:
            return stream, rms_norm(stream, self.weight, self.eps, backend=self.backend)
        options: dict[str, Any] = dict(dropout_p=dropout_p, seed=seed, backend=self.backend)
        return rms_norm(update, self.weight, self.eps, residual=stream, **options)


class Packing(NamedTuple):
    """Sequences packed one after the other along the token axis of a batch of 1: ``segments`` of (count, length), and
    which of them the mask concerns (None: all)."""

    segments: Segments
    masked: tuple[bool, ...] | None = None


class Attention(nn.Module):
    """Multi-head self-attention. H * E need not be D. One fused parameter holds the q, k and v projections."""

    def __init__(
        self, d_model: int, d_kv: int, num_heads: int, use_bias: bool, dropout: float, scale: float, backend: str
    ) -> None:
        super().__init__()
        inner = num_heads * d_kv
        # Three kernels in one tensor: each is initialised with its own fans, as if alone.
        self.qkv_weight = nn.Parameter(glorot_uniform(torch.empty(3 * inner, d_model), d_model, inner))
        self.qkv_bias = parameter(3 * inner) if use_bias else None
        self.out_weight = nn.Parameter(glorot_uniform(torch.empty(d_model, inner), inner, d_model))
        self.out_bias = parameter(d_model) if use_bias else None
        self.num_heads, self.scale, self.dropout, self.backend = num_heads, scale, dropout, backend

    def forward(
        self,
        x_BND: Tensor,
        mask_BN: Tensor | None = None,
        bias_HNN: Tensor | None = None,
        packing: Packing | None = None,
        return_weights: bool = False,
        seed: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Output (B, N, D), and the weights (B, H, N, N) if asked for, else None."""
        B, N, _ = x_BND.shape
        qkv_BN3HE = F.linear(x_BND, self.qkv_weight, self.qkv_bias).unflatten(-1, (3, self.num_heads, -1))
        dropout_p = self.dropout if self.training else 0.0
        options: dict[str, Any] = dict(bias=bias_HNN, scale=self.scale, dropout_p=dropout_p, seed=seed)
        weights_BHNN = None
        if return_weights:
            backend = "torch" if self.backend == "auto" else self.backend
            result = attention(*qkv_BN3HE.unbind(2), mask=mask_BN, return_weights=True, backend=backend, **options)
            out_THE, weights_BHNN = result[0].flatten(0, 1), result[1]
        else:
            segments, masked = packing or Packing(((B, N),))
            out_THE = packed_attention(
                qkv_BN3HE.flatten(0, 1),
                segments,
                mask=None if mask_BN is None else mask_BN.flatten(),
                masked=masked,
                backend=self.backend,
                **options,
            )
        return F.linear(out_THE.flatten(1).view(B, N, -1), self.out_weight, self.out_bias), weights_BHNN


class MLP(nn.Module):
    """Dense, GELU, dropout, Dense."""

    def __init__(self, d_model: int, d_ff: int, use_bias: bool, dropout: float, backend: str) -> None:
        super().__init__()
        self.in_weight = nn.Parameter(glorot_uniform(torch.empty(d_ff, d_model), d_model, d_ff))
        self.in_bias = parameter(d_ff) if use_bias else None
        self.out_weight = nn.Parameter(glorot_uniform(torch.empty(d_model, d_ff), d_ff, d_model))
        self.out_bias = parameter(d_model) if use_bias else None
        self.dropout, self.backend = dropout, backend

    def forward(self, x_BND: Tensor, seed: Tensor | None = None) -> Tensor:
        dropout_p = self.dropout if self.training else 0.0
        return mlp(
            x_BND,
            self.in_weight,
            self.in_bias,
            self.out_weight,
            self.out_bias,
            dropout_p=dropout_p,
            seed=seed,
            backend=self.backend,
        )
