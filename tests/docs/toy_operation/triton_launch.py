"""Launches the kernels of squared ReLU. Shapes: n numbers, in one piece."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from ..runtime import launch
from .triton_kernels import squared_relu_backward, squared_relu_forward

BLOCK, WARPS = 1024, 4  # 128 threads, each with 16 bytes of bfloat16; the same on every GPU


def forward(x: Tensor) -> Tensor:
    out = torch.empty_like(x)
    n = x.numel()
    launch(squared_relu_forward, (triton.cdiv(n, BLOCK),), x, out, n, BLOCK=BLOCK, num_warps=WARPS)
    return out


def backward(grad_out: Tensor, x: Tensor) -> Tensor:
    grad_x = torch.empty_like(x)
    n = x.numel()
    launch(squared_relu_backward, (triton.cdiv(n, BLOCK),), grad_out, x, grad_x, n, BLOCK=BLOCK, num_warps=WARPS)
    return grad_x
