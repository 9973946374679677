"""Layer norm and RMS norm, alone or fused with the residual sum in front of them."""

from __future__ import annotations

from typing import overload

from torch import Tensor

from ..backends import Call, choose, refuse_non_float, register
from . import reference

__all__ = ["layer_norm", "rms_norm"]

register("layer_norm", "torch", reference.layer_norm, refuse_non_float)
register("rms_norm", "torch", reference.rms_norm, refuse_non_float)


@overload
def layer_norm(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float = ..., *, residual: None = ..., backend: str = ...
) -> Tensor: ...
@overload
def layer_norm(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float = ..., *, residual: Tensor, backend: str = ...
) -> tuple[Tensor, Tensor]: ...
def layer_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float = 1e-6,
    *,
    residual: Tensor | None = None,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """(x - mean) / sqrt(biased variance + eps) * weight + bias over the last axis; statistics in float32.

    Args:
        x: (..., D).
        weight, bias: (D,).
        residual: (..., D). When given, x + residual is normalised.
        backend: "auto" or "torch".

    Returns:
        The normalised tensor; with ``residual`` the pair (x + residual, normalised).
    """
    _check("layer_norm", x, residual, weight=weight, bias=bias)
    return choose("layer_norm", backend, Call(x.device, x.dtype))(x, weight, bias, eps, residual)


@overload
def rms_norm(x: Tensor, weight: Tensor, eps: float = ..., *, residual: None = ..., backend: str = ...) -> Tensor: ...
@overload
def rms_norm(
    x: Tensor, weight: Tensor, eps: float = ..., *, residual: Tensor, backend: str = ...
) -> tuple[Tensor, Tensor]: ...
def rms_norm(
    x: Tensor, weight: Tensor, eps: float = 1e-6, *, residual: Tensor | None = None, backend: str = "auto"
) -> Tensor | tuple[Tensor, Tensor]:
    """x / sqrt(mean(x^2) + eps) * weight over the last axis, as T5 does; otherwise as `layer_norm`."""
    _check("rms_norm", x, residual, weight=weight)
    return choose("rms_norm", backend, Call(x.device, x.dtype))(x, weight, eps, residual)


def _check(op: str, x: Tensor, residual: Tensor | None, **parameters: Tensor) -> None:
    for name, value in parameters.items():
        if value.shape != x.shape[-1:]:
            raise ValueError(f"{op}: {name}: expected ({x.shape[-1]},), got {tuple(value.shape)}")
    if residual is not None and residual.shape != x.shape:
        raise ValueError(f"{op}: residual: expected {tuple(x.shape)}, got {tuple(residual.shape)}")
