"""Squared ReLU as an operator of PyTorch, with the gradient. Imports without Triton. Shapes: n numbers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..operators import operator


def _fake(x):  # type: ignore[no-untyped-def]
    return torch.empty_like(x)


@operator("vatt_kernels::squared_relu", "(Tensor x) -> Tensor", _fake)
def forward(x):  # type: ignore[no-untyped-def]
    from . import triton_launch

    return triton_launch.forward(x)


def _fake_backward(grad_out, x):  # type: ignore[no-untyped-def]
    return torch.empty_like(x)


@operator("vatt_kernels::squared_relu_backward", "(Tensor grad_out, Tensor x) -> Tensor", _fake_backward)
def backward(grad_out, x):  # type: ignore[no-untyped-def]
    from . import triton_launch

    return triton_launch.backward(grad_out, x)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _gradient(ctx: Any, grad_out: Tensor) -> Tensor:
    return backward(grad_out.contiguous(), *ctx.saved_tensors)


forward.gradient(_setup, _gradient)


def squared_relu(x: Tensor) -> Tensor:
    return forward(x.contiguous())
