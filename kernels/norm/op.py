"""The norm as custom operators of PyTorch, with their gradients: what `backend="triton"` calls.

Imports without Triton; the kernels are imported when an operator runs. Shapes: R rows, D width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..dropout import draw_seed

_FORWARD = (
    "(Tensor x, Tensor? residual, Tensor weight, Tensor? bias, Tensor? seed, float eps, float p)"
    " -> (Tensor, Tensor, Tensor, Tensor)"
)
_BACKWARD = (
    "(Tensor? grad_total, Tensor grad_normed, Tensor total, Tensor weight, Tensor? mean, Tensor rstd, Tensor? seed,"
    " float p) -> (Tensor, Tensor, Tensor, Tensor)"
)


@torch.library.custom_op("vatt_kernels::norm", mutates_args=(), schema=_FORWARD)
def norm(x, residual, weight, bias, seed, eps, p):
    """total (R, D), or empty without a residual; normed (R, D); mean (R,), or empty for RMS; rstd (R,)."""
    from . import triton_launch

    return triton_launch.forward(x, residual, weight, bias, seed, eps, p)


@norm.register_fake
def _(x, residual, weight, bias, seed, eps, p):
    R = x.shape[0]
    total = torch.empty_like(x) if residual is not None else x.new_empty(0)
    mean = x.new_empty(R if bias is not None else 0, dtype=torch.float32)
    return total, torch.empty_like(x), mean, x.new_empty(R, dtype=torch.float32)


@torch.library.custom_op("vatt_kernels::norm_backward", mutates_args=(), schema=_BACKWARD)
def norm_backward(grad_total, grad_normed, total, weight, mean, rstd, seed, p):
    """Gradients of the residual (R, D) and of x (empty without dropout: the same), of weight and bias (D,)."""
    from . import triton_launch

    grads = triton_launch.backward(grad_total, grad_normed, total, weight, mean, rstd, seed, p)
    grad_residual, grad_x, weight_GD, bias_GD = grads
    return grad_residual, grad_x, weight_GD.sum(0).to(weight.dtype), bias_GD.sum(0).to(weight.dtype)


@norm_backward.register_fake
def _(grad_total, grad_normed, total, weight, mean, rstd, seed, p):
    grad_x = torch.empty_like(total) if p > 0 else total.new_empty(0)
    return torch.empty_like(total), grad_x, torch.empty_like(weight), torch.empty_like(weight)


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
        grad_total, grad_normed.contiguous(), total, weight, mean, rstd, seed, ctx.p
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


norm.register_autograd(_gradients, setup_context=_setup)


def layer_norm(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, residual: Tensor | None, dropout_p: float
) -> Tensor | tuple[Tensor, Tensor]:
    """The normed tensor; with a residual the sum and the normed sum."""
    return _run(x, weight, bias, eps, residual, dropout_p)


def rms_norm(
    x: Tensor, weight: Tensor, eps: float, residual: Tensor | None, dropout_p: float
) -> Tensor | tuple[Tensor, Tensor]:
    """As `layer_norm`."""
    return _run(x, weight, None, eps, residual, dropout_p)


def _run(
    x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, residual: Tensor | None, dropout_p: float
) -> Tensor | tuple[Tensor, Tensor]:
    D = x.shape[-1]
    if residual is not None:  # under autocast an update comes in half precision; the stream keeps its type
        dtype = torch.promote_types(x.dtype, residual.dtype)
        x, residual = x.to(dtype), residual.to(dtype)
    seed = draw_seed(x.device) if dropout_p > 0 else None
    rows_RD = x.reshape(-1, D).contiguous()
    residual_RD = None if residual is None else residual.reshape(-1, D).contiguous()
    weight, bias = weight.contiguous(), None if bias is None else bias.contiguous()
    total_RD, normed_RD, _, _ = norm(rows_RD, residual_RD, weight, bias, seed, eps, dropout_p)
    if residual is None:
        return normed_RD.view(x.shape)
    return total_RD.view(x.shape), normed_RD.view(x.shape)
