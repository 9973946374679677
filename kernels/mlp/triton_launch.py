"""Launches the MLP kernels, with their launch configs.

Shapes: R rows, D width, M inner width, G programs that share the rows.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
from torch import Tensor

from .. import dropout
from ..runtime import INTERPRETER, interpreter_block, launch, tensor_arch
from .triton_kernels import bias_gelu_backward, bias_gelu_forward, linear_gelu_forward


class LaunchConfig(NamedTuple):
    """A tile of ``rows`` x ``columns``; ``depth``: what a step of a matrix product sums over."""

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int


# Element by element: 8 numbers of 2 bytes per thread and row, in accesses of 16 bytes.
ELEMENTWISE_CONFIG = LaunchConfig(8, 256, 0, 4, 1)
# Blocks of columns that a program of the forward pass goes through.
BLOCKS = {"interpreter": 2, "sm80": 4, "sm90": 4, "sm100": 4}

# Not yet swept on a GPU.
PRODUCT_CONFIGS = {
    "sm80": LaunchConfig(128, 128, 32, 8, 3),
    "sm90": LaunchConfig(128, 128, 64, 8, 3),
    "sm100": LaunchConfig(128, 128, 64, 8, 3),
}
FP32_PRODUCT_CONFIG = LaunchConfig(64, 64, 32, 8, 2)
PROGRAMS = {"interpreter": 3, "sm80": 432, "sm90": 528, "sm100": 592}


def elementwise_config(arch: str, rows: int, columns: int) -> LaunchConfig:
    """For a pass over ``rows`` x ``columns`` numbers."""
    if arch == INTERPRETER:
        return LaunchConfig(4 if rows <= 32 else 32, interpreter_block(columns, 256), 0, 4, 1)
    return ELEMENTWISE_CONFIG


def product_config(arch: str, fp32: bool, rows: int, columns: int, depth: int) -> LaunchConfig:
    """``fp32``: float32 tensors."""
    if arch == INTERPRETER:
        return LaunchConfig(interpreter_block(rows), interpreter_block(columns), interpreter_block(depth), 4, 1)
    return FP32_PRODUCT_CONFIG if fp32 else PRODUCT_CONFIGS[arch]


def program_count(arch: str, across: int, steps: int) -> int:
    """How many programs share the ``steps`` of rows in each of ``across`` blocks of columns."""
    return max(1, min(PROGRAMS[arch] // across, steps))


def forward(x: Tensor, bias: Tensor | None, seed: Tensor | None, p: float) -> Tensor:
    """dropout(gelu(x + bias)) of (R, M)."""
    R, M = x.shape
    out = torch.empty_like(x)
    arch = tensor_arch(x)
    config, blocks = elementwise_config(arch, R, M), BLOCKS[arch]
    grid = (triton.cdiv(R, config.rows), triton.cdiv(M, blocks * config.columns))
    meta = dict(BIAS=bias is not None, DROPOUT=dropout.threshold(p) > 0, ROWS=config.rows, COLUMNS=config.columns)
    meta["BLOCKS"] = blocks
    rates = dropout.threshold(p), dropout.keep_scale(p)
    launch(bias_gelu_forward, grid, x, bias, seed, out, R, M, *rates, **meta, num_warps=config.warps)
    return out


def backward(grad_out: Tensor, x: Tensor, bias: Tensor | None, seed: Tensor | None, p: float) -> tuple[Tensor, Tensor]:
    """Gradient of x (R, M), and partial sums (G, M) of the bias gradient (empty without a bias)."""
    R, M = x.shape
    arch = tensor_arch(x)
    config = elementwise_config(arch, R, M)
    across = triton.cdiv(M, config.columns)
    programs = program_count(arch, across, triton.cdiv(R, config.rows))
    grad_x = torch.empty_like(x)
    grad_bias = x.new_empty(programs if bias is not None else 0, M, dtype=torch.float32)
    launch(
        bias_gelu_backward,
        (programs, across),
        grad_out,
        x,
        bias,
        seed,
        grad_x,
        grad_bias,
        R,
        M,
        dropout.threshold(p),
        dropout.keep_scale(p),
        BIAS=bias is not None,
        DROPOUT=dropout.threshold(p) > 0,
        ROWS=config.rows,
        COLUMNS=config.columns,
        num_warps=config.warps,
    )
    return grad_x, grad_bias


def linear_forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, seed: Tensor | None, p: float
) -> tuple[Tensor, Tensor]:
    """dropout(gelu(x W^T + b)) and x W^T, both (R, M)."""
    R, D = x.shape
    M = weight.shape[0]
    out, product = x.new_empty(R, M), x.new_empty(R, M)
    config = product_config(tensor_arch(x), x.dtype == torch.float32, R, M, D)
    launch(
        linear_gelu_forward,
        (triton.cdiv(R, config.rows) * triton.cdiv(M, config.columns),),
        x,
        weight,
        bias,
        seed,
        product,
        out,
        R,
        D,
        M,
        dropout.threshold(p),
        dropout.keep_scale(p),
        BIAS=bias is not None,
        DROPOUT=dropout.threshold(p) > 0,
        BLOCK_R=config.rows,
        BLOCK_M=config.columns,
        BLOCK_D=config.depth,
        GROUP=8,
        PRECISION="tf32x3",
        num_warps=config.warps,
        num_stages=config.stages,
    )
    return out, product
