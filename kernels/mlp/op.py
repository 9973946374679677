"""Bias, GELU and dropout as operators of PyTorch, with their gradients: "triton" and "triton_gemm".

Imports without Triton; the kernels are imported when an operator runs. Shapes: R rows, D width, M inner width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..dropout import drawn
from ..operators import operator

_BIAS_GELU = "(Tensor x, Tensor? bias, Tensor? seed, float p) -> Tensor"
_BIAS_GELU_BACKWARD = "(Tensor grad_out, Tensor x, Tensor? bias, Tensor? seed, float p) -> (Tensor, Tensor)"
_LINEAR_GELU = "(Tensor x, Tensor weight, Tensor? bias, Tensor? seed, float p) -> (Tensor, Tensor)"


def _fake_bias_gelu(x, bias, seed, p):
    return torch.empty_like(x)


@operator("vatt_kernels::bias_gelu", _BIAS_GELU, _fake_bias_gelu)
def bias_gelu(x, bias, seed, p):
    """dropout(gelu(x + bias)) of (R, M)."""
    from . import triton_launch

    return triton_launch.forward(x, bias, seed, p)


def _fake_bias_gelu_backward(grad_out, x, bias, seed, p):
    return torch.empty_like(x), torch.empty_like(bias) if bias is not None else x.new_empty(0)


@operator("vatt_kernels::bias_gelu_backward", _BIAS_GELU_BACKWARD, _fake_bias_gelu_backward)
def bias_gelu_backward(grad_out, x, bias, seed, p):
    """Gradients of x (R, M) and of the bias (M,), which is empty without one."""
    from . import triton_launch

    grad_x, bias_GM = triton_launch.backward(grad_out, x, bias, seed, p)
    return grad_x, bias_GM.sum(0).to(bias.dtype) if bias is not None else x.new_empty(0)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, bias, seed, ctx.p = inputs
    ctx.save_for_backward(x, bias, seed)


def _gradients(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
    x, bias, seed = ctx.saved_tensors
    grad_x, grad_bias = bias_gelu_backward(grad_out.contiguous(), x, bias, seed, ctx.p)
    return grad_x, grad_bias if bias is not None else None, None, None


bias_gelu.gradient(_setup, _gradients)


def _fake_linear_gelu(x, weight, bias, seed, p):
    shape = x.shape[0], weight.shape[0]
    return x.new_empty(shape), x.new_empty(shape)


@operator("vatt_kernels::linear_gelu", _LINEAR_GELU, _fake_linear_gelu)
def linear_gelu(x, weight, bias, seed, p):
    """dropout(gelu(x W^T + b)) and x W^T, both (R, M)."""
    from . import triton_launch

    return triton_launch.linear_forward(x, weight, bias, seed, p)


def _setup_linear(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight, bias, seed, ctx.p = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, weight, bias, seed, output[1])


def _linear_gradients(ctx: Any, grad_out: Tensor | None, _product: Any) -> tuple[Tensor | None, ...]:
    x, weight, bias, seed, product = ctx.saved_tensors
    if grad_out is None:
        return (None,) * 5
    grad, grad_bias = bias_gelu_backward(grad_out.contiguous(), product, bias, seed, ctx.p)
    return grad @ weight, grad.T @ x, grad_bias if bias is not None else None, None, None


linear_gelu.gradient(_setup_linear, _linear_gradients)


def mlp(
    x: Tensor,
    weight_in: Tensor,
    bias_in: Tensor | None,
    weight_out: Tensor,
    bias_out: Tensor | None,
    dropout_p: float,
    seed: Tensor | None = None,
) -> Tensor:
    """cuBLAS's products with one pass between them."""
    return F.linear(dense_gelu(x, weight_in, bias_in, dropout_p, seed), weight_out, bias_out)


def mlp_gemm(
    x: Tensor,
    weight_in: Tensor,
    bias_in: Tensor | None,
    weight_out: Tensor,
    bias_out: Tensor | None,
    dropout_p: float,
    seed: Tensor | None = None,
) -> Tensor:
    """The first product in Triton, with all that follows done on its accumulators."""
    seed = drawn(seed, dropout_p, x.device)
    x_RD = x.reshape(-1, x.shape[-1]).contiguous()
    hidden_RM, _ = linear_gelu(x_RD, weight_in.contiguous(), _contiguous(bias_in), seed, float(dropout_p))
    return F.linear(hidden_RM, weight_out, bias_out).view(*x.shape[:-1], weight_out.shape[0])


def _contiguous(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.contiguous()


def dense_gelu(
    x: Tensor, weight: Tensor, bias: Tensor | None, dropout_p: float = 0.0, seed: Tensor | None = None
) -> Tensor:
    """dropout(gelu(x W^T + b)): cuBLAS's product and one pass behind it."""
    seed = drawn(seed, dropout_p, x.device)
    product = F.linear(x, weight)
    hidden_RM = bias_gelu(
        product.reshape(-1, product.shape[-1]).contiguous(), _contiguous(bias), seed, float(dropout_p)
    )
    return hidden_RM.view(product.shape)
