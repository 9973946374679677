"""Layer norm and RMS norm, alone or fused with the residual sum in front of them."""

from __future__ import annotations

import math
from typing import overload

from torch import Tensor

from ..cpu import refuse_cpu
from ..dropout import check_dropout
from ..registry import Call, dispatch, gradient, refuse_non_float, register
from ..runtime import refuse_triton
from ..types import of_a_norm
from . import cpu, op, reference

__all__ = ["layer_norm", "rms_norm"]

MAX_WIDTH = 8192  # numbers of a row that one program can hold


def _refuse(call: Call) -> list[str]:
    width = call.facts.get("width", 1)
    too_wide = [f"holds rows of up to {MAX_WIDTH} numbers, got {width}"] if width > MAX_WIDTH else []
    return refuse_triton(call) + too_wide


register("layer_norm", "triton", op.layer_norm, _refuse)
register("rms_norm", "triton", op.rms_norm, _refuse)
register("layer_norm", "cpu", cpu.layer_norm, refuse_cpu)
register("rms_norm", "cpu", cpu.rms_norm, refuse_cpu)
register("layer_norm", "torch", reference.layer_norm, refuse_non_float)
register("rms_norm", "torch", reference.rms_norm, refuse_non_float)


@overload
def layer_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float = ...,
    *,
    residual: None = ...,
    dropout_p: float = ...,
    seed: Tensor | None = ...,
    backend: str = ...,
) -> Tensor: ...
@overload
def layer_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float = ...,
    *,
    residual: Tensor,
    dropout_p: float = ...,
    seed: Tensor | None = ...,
    backend: str = ...,
) -> tuple[Tensor, Tensor]: ...
def layer_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float = 1e-6,
    *,
    residual: Tensor | None = None,
    dropout_p: float = 0.0,
    seed: Tensor | None = None,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """(x - mean) / sqrt(biased variance + eps) * weight + bias over the last axis; statistics in float32.

    Args:
        x: (..., D).
        weight, bias: (D,).
        residual: (..., D). When given, x + residual is normalised.
        dropout_p: dropout of x before the sum; only with a residual.
        seed: (1,) or longer, int64, of which the first number counts. The mask of the dropout is a function of it, the
            same in all backends. None draws one from PyTorch's generator.
        backend: "auto", "triton", "cpu" (dropout and sum on blocks in the cache of a CPU) or "torch".

    Returns:
        The normalised tensor; with ``residual`` the pair (x + residual, normalised). Of the wider type of x and
        residual; under autocast of float32 or wider.

    Raises:
        ValueError: shapes or types that do not fit, or dropout without a residual; the message names the argument.
        BackendError: the backend cannot run this call.
    """
    _check("layer_norm", x, residual, dropout_p, seed, weight=weight, bias=bias)
    x, residual, weight, bias = of_a_norm("layer_norm", x, residual, weight=weight, bias=bias)
    call = _call(x, weight, residual, dropout_p)
    return dispatch("layer_norm", backend, call)(x, weight, bias, eps, residual, dropout_p, seed)


@overload
def rms_norm(
    x: Tensor,
    weight: Tensor,
    eps: float = ...,
    *,
    residual: None = ...,
    dropout_p: float = ...,
    seed: Tensor | None = ...,
    backend: str = ...,
) -> Tensor: ...
@overload
def rms_norm(
    x: Tensor,
    weight: Tensor,
    eps: float = ...,
    *,
    residual: Tensor,
    dropout_p: float = ...,
    seed: Tensor | None = ...,
    backend: str = ...,
) -> tuple[Tensor, Tensor]: ...
def rms_norm(
    x: Tensor,
    weight: Tensor,
    eps: float = 1e-6,
    *,
    residual: Tensor | None = None,
    dropout_p: float = 0.0,
    seed: Tensor | None = None,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """x / sqrt(mean(x^2) + eps) * weight over the last axis, as T5 does; otherwise as `layer_norm`."""
    _check("rms_norm", x, residual, dropout_p, seed, weight=weight)
    x, residual, weight = of_a_norm("rms_norm", x, residual, weight=weight)
    call = _call(x, weight, residual, dropout_p)
    return dispatch("rms_norm", backend, call)(x, weight, eps, residual, dropout_p, seed)


def _call(x: Tensor, weight: Tensor, residual: Tensor | None, dropout_p: float) -> Call:
    facts = {"width": x.shape[-1], "residual": residual is not None, "dropout": dropout_p}
    facts["gradient"] = gradient(x, residual, weight)
    return Call(x.device, x.dtype, facts, count=math.prod(x.shape[:-1]))


def _check(
    operation: str, x: Tensor, residual: Tensor | None, dropout_p: float, seed: Tensor | None, **parameters: Tensor
) -> None:
    check_dropout(operation, dropout_p, seed, x.device)
    if dropout_p > 0 and residual is None:
        raise ValueError(f"{operation}: dropout_p: expected 0 without a residual, got {dropout_p}")
    for name, value in parameters.items():
        if value.shape != x.shape[-1:]:
            raise ValueError(f"{operation}: {name}: expected ({x.shape[-1]},), got {tuple(value.shape)}")
    if residual is not None and residual.shape != x.shape:
        raise ValueError(f"{operation}: residual: expected {tuple(x.shape)}, got {tuple(residual.shape)}")
