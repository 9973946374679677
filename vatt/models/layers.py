"""Building blocks. Each owns the parameters that it hands to an operation, since ZeRO-3 gathers them module by module.

Shapes: B batch, N tokens, D width, H heads, E head dim, M inner width of the MLP.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vatt.kernels.attention import attention
from vatt.kernels.mlp import mlp
from vatt.kernels.norm import layer_norm, rms_norm
from vatt.models.initialize import glorot_uniform


def parameter(*shape: int) -> nn.Parameter:
    """A parameter of zeros."""
    return nn.Parameter(torch.zeros(*shape))


class Dense(nn.Module):
    """x W^T + b with W (d_out, d_in), Glorot-uniform, and an optional exact GELU."""

    def __init__(self, d_in: int, d_out: int, bias: bool = True, gelu: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(glorot_uniform(torch.empty(d_out, d_in), d_in, d_out))
        self.bias = parameter(d_out) if bias else None
        self.gelu = gelu

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(x, self.weight, self.bias)
        return F.gelu(y) if self.gelu else y


class LayerNorm(nn.Module):
    """The residual sum and its layer norm."""

    def __init__(self, d_model: int, eps: float, backend: str = "auto") -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d_model))
        self.bias = parameter(d_model)
        self.eps, self.backend = eps, backend

    def forward(self, x: Tensor, residual: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(..., D) and (..., D) or None -> x + residual (or x), and this normalised."""
        if residual is None:
            return x, layer_norm(x, self.weight, self.bias, self.eps, backend=self.backend)
        return layer_norm(x, self.weight, self.bias, self.eps, residual=residual, backend=self.backend)


class RMSNorm(nn.Module):
    """The residual sum and its RMS norm: T5's norm, with a scale, no mean and no bias."""

    def __init__(self, d_model: int, eps: float, backend: str = "auto") -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d_model))
        self.eps, self.backend = eps, backend

    def forward(self, x: Tensor, residual: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """As `LayerNorm.forward`."""
        if residual is None:
            return x, rms_norm(x, self.weight, self.eps, backend=self.backend)
        return rms_norm(x, self.weight, self.eps, residual=residual, backend=self.backend)


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
        return_weights: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Output (B, N, D), and the weights (B, H, N, N) if asked for, else None."""
        q_BNHE, k_BNHE, v_BNHE = (
            F.linear(x_BND, self.qkv_weight, self.qkv_bias).unflatten(-1, (3, self.num_heads, -1)).unbind(2)
        )
        backend = "torch" if return_weights and self.backend == "auto" else self.backend
        dropout_p = self.dropout if self.training else 0.0
        result = attention(
            q_BNHE,
            k_BNHE,
            v_BNHE,
            mask=mask_BN,
            bias=bias_HNN,
            scale=self.scale,
            dropout_p=dropout_p,
            return_weights=return_weights,
            backend=backend,
        )
        out_BNHE, weights_BHNN = result if isinstance(result, tuple) else (result, None)
        return F.linear(out_BNHE.flatten(2), self.out_weight, self.out_bias), weights_BHNN


class MLP(nn.Module):
    """Dense, GELU, dropout, Dense."""

    def __init__(self, d_model: int, d_ff: int, use_bias: bool, dropout: float, backend: str) -> None:
        super().__init__()
        self.in_weight = nn.Parameter(glorot_uniform(torch.empty(d_ff, d_model), d_model, d_ff))
        self.in_bias = parameter(d_ff) if use_bias else None
        self.out_weight = nn.Parameter(glorot_uniform(torch.empty(d_model, d_ff), d_ff, d_model))
        self.out_bias = parameter(d_model) if use_bias else None
        self.dropout, self.backend = dropout, backend

    def forward(self, x_BND: Tensor) -> Tensor:
        dropout_p = self.dropout if self.training else 0.0
        return mlp(
            x_BND,
            self.in_weight,
            self.in_bias,
            self.out_weight,
            self.out_bias,
            dropout_p=dropout_p,
            backend=self.backend,
        )
