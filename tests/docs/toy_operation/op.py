"""Squared ReLU as custom operators of PyTorch, with the gradient. Imports without Triton. Shapes: n numbers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


@torch.library.custom_op("vatt_kernels::squared_relu", mutates_args=(), schema="(Tensor x) -> Tensor")
def forward(x):  # type: ignore[no-untyped-def]
    from . import triton_launch

    return triton_launch.forward(x)


@forward.register_fake
def _(x):  # type: ignore[no-untyped-def]
    return torch.empty_like(x)


@torch.library.custom_op(
    "vatt_kernels::squared_relu_backward", mutates_args=(), schema="(Tensor grad_out, Tensor x) -> Tensor"
)
def backward(grad_out, x):  # type: ignore[no-untyped-def]
    from . import triton_launch

    return triton_launch.backward(grad_out, x)


@backward.register_fake
def _(grad_out, x):  # type: ignore[no-untyped-def]
    return torch.empty_like(x)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _gradient(ctx: Any, grad_out: Tensor) -> Tensor:
    return backward(grad_out.contiguous(), *ctx.saved_tensors)


forward.register_autograd(_gradient, setup_context=_setup)


def squared_relu(x: Tensor) -> Tensor:
    return forward(x.contiguous())
