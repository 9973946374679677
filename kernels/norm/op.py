"""The norm as operators of PyTorch, with their gradients: what `backend="triton"` calls.

Imports without Triton; the kernels are imported when an operator runs. Shapes: R rows, D width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..dropout import drawn
from ..operators import operator

_FORWARD = (
    "(Tensor x, Tensor? residual, Tensor weight, Tensor? bias, Tensor? seed, float eps, float p)"
    " -> (Tensor, Tensor, Tensor, Tensor)"
)
_BACKWARD = (
    "(Tensor grad_normed, Tensor? grad_total, Tensor total, Tensor weight, Tensor? mean, Tensor rstd, Tensor? seed,"
    " float p) -> (Tensor, Tensor, Tensor, Tensor)"
)


def _fake(x, residual, weight, bias, seed, eps, p):
    R = x.shape[0]
    total = torch.empty_like(x) if residual is not None else x.new_empty(0)
    mean = x.new_empty(R if bias is not None else 0, dtype=torch.float32)
    return total, torch.empty_like(x), mean, x.new_empty(R, dtype=torch.float32)


@operator("vatt_kernels::norm", _FORWARD, _fake)
def norm(x, residual, weight, bias, seed, eps, p):
    """total (R, D), or empty without a residual; normed (R, D); mean (R,), or empty for RMS; rstd (R,)."""
    from . import triton_launch

    return triton_launch.forward(x, residual, weight, bias, seed, eps, p)


def _fake_backward(grad_normed, grad_total, total, weight, mean, rstd, seed, p):
    grad_x = torch.empty_like(total) if p > 0 else total.new_empty(0)
    return torch.empty_like(total), grad_x, torch.empty_like(weight), torch.empty_like(weight)


@operator("vatt_kernels::norm_backward", _BACKWARD, _fake_backward)
def norm_backward(grad_normed, grad_total, total, weight, mean, rstd, seed, p):
    """Gradients of the residual (R, D) and of x (empty without dropout: the same), of weight and bias (D,)."""
    from . import triton_launch

    grads = triton_launch.backward(grad_total, grad_normed, total, weight, mean, rstd, seed, p)
    grad_residual, grad_x, weight_GD, bias_GD = grads
    return grad_residual, grad_x, weight_GD.sum(0).to(weight.dtype), bias_GD.sum(0).to(weight.dtype)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, residual, weight, bias, seed, _, p = inputs
    total, _, mean, rstd = output
    ctx.set_materialize_grads(False)
    ctx.with_residual, ctx.centred, ctx.p = residual is not None, bias is not None, p
    ctx.save_for_backward(total if residual is not None else x, weight, mean, rstd, seed)


def _gradients(
    ctx: Any, grad_total: Tensor | None, grad_normed: Tensor | None, _mean: Any, _rstd: Any
) -> tuple[Tensor | None, ...]:
    total, weight, mean, rstd, seed = ctx.saved_tensors
    if grad_normed is None:
        grad_normed = torch.zeros_like(total)
    if grad_total is not None:
        grad_total = grad_total.contiguous() if ctx.with_residual else None
    mean = mean if ctx.centred else None
    grad_residual, grad_x, grad_weight, grad_bias = norm_backward(
        grad_normed.contiguous(), grad_total, total, weight, mean, rstd, seed, ctx.p
    )
    return (
        grad_x if ctx.p > 0 else grad_residual,
        grad_residual if ctx.with_residual else None,
        grad_weight,
        grad_bias if ctx.centred else None,
        None,
        None,
        None,
    )


norm.gradient(_setup, _gradients)


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
    return _run(x, weight, bias, eps, residual, dropout_p, seed)


def rms_norm(
    x: Tensor,
    weight: Tensor,
    eps: float,
    residual: Tensor | None,
    dropout_p: float,
    seed: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """As `layer_norm`."""
    return _run(x, weight, None, eps, residual, dropout_p, seed)


def _run(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    eps: float,
    residual: Tensor | None,
    dropout_p: float,
    seed: Tensor | None,
) -> Tensor | tuple[Tensor, Tensor]:
    D = x.shape[-1]
    if residual is not None:  # under autocast an update comes in half precision; the stream keeps its type
        dtype = torch.promote_types(x.dtype, residual.dtype)
        x, residual = x.to(dtype), residual.to(dtype)
    seed = drawn(seed, dropout_p, x.device)
    rows_RD = x.reshape(-1, D).contiguous()
    residual_RD = None if residual is None else residual.reshape(-1, D).contiguous()
    weight, bias = weight.contiguous(), None if bias is None else bias.contiguous()
    total_RD, normed_RD, _, _ = norm(rows_RD, residual_RD, weight, bias, seed, eps, dropout_p)
    if residual is None:
        return normed_RD.view(x.shape)
    return total_RD.view(x.shape), normed_RD.view(x.shape)
