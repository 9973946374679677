"""Launches the norm kernels, with their launch configs. Shapes: R rows, D width, G programs of the backward pass."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
from torch import Tensor

from .. import dropout
from ..runtime import INTERPRETER, launch, tensor_arch
from .triton_kernels import norm_backward, norm_forward


class LaunchConfig(NamedTuple):
    """``rows``: rows of a tile; ``programs``: how many programs share the rows in the backward pass, each with one row
    of partial sums for the gradients of weight and bias; ``stages``: tiles of it that are read ahead."""

    rows: int
    warps: int
    programs: int
    stages: int


# Multiples of the streaming multiprocessors (108 on A100, 132 on H100, 148 on B200).
PROGRAMS = {"sm80": 432, "sm90": 528, "sm100": 592}


def forward_config(arch: str, width: int, rows: int) -> LaunchConfig:
    """For ``rows`` rows of ``width`` numbers."""
    if arch == INTERPRETER:
        return _interpreter_config(rows)
    # Tiles of at least 2048 numbers, so that each of 128 threads has 16 bytes to read in one go.
    tile = max(2, 2048 // triton.next_power_of_2(width))
    return LaunchConfig(tile, warps=4 if width <= 1024 else 8, programs=0, stages=1)


def backward_config(arch: str, width: int, rows: int) -> LaunchConfig:
    """For ``rows`` rows of ``width`` numbers."""
    if arch == INTERPRETER:
        return _interpreter_config(rows)
    tile = max(1, 1024 // triton.next_power_of_2(width))
    return LaunchConfig(tile, warps=4 if width <= 1024 else 8, programs=PROGRAMS[arch], stages=3)


def _interpreter_config(rows: int) -> LaunchConfig:
    return LaunchConfig(2 if rows <= 32 else 32, warps=4, programs=3, stages=1)


def forward(
    x_RD: Tensor,
    residual_RD: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    seed: Tensor | None,
    eps: float,
    p: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """total (R, D), or empty without a residual; normed (R, D); mean (R,), or empty for RMS; rstd (R,)."""
    R, D = x_RD.shape
    total = torch.empty_like(x_RD) if residual_RD is not None else x_RD.new_empty(0)
    normed = torch.empty_like(x_RD)
    mean = x_RD.new_empty(R if bias is not None else 0, dtype=torch.float32)
    rstd = x_RD.new_empty(R, dtype=torch.float32)
    config = forward_config(tensor_arch(x_RD), D, R)
    launch(
        norm_forward,
        (triton.cdiv(R, config.rows),),
        x_RD,
        residual_RD,
        weight,
        bias,
        seed,
        total,
        normed,
        mean,
        rstd,
        R,
        D,
        eps,
        dropout.threshold(p),
        dropout.keep_scale(p),
        RESIDUAL=residual_RD is not None,
        CENTRED=bias is not None,
        DROPOUT=dropout.threshold(p) > 0,
        ROWS=config.rows,
        WIDTH=max(4, triton.next_power_of_2(D)),
        num_warps=config.warps,
    )
    return total, normed, mean, rstd


def backward(
    grad_total_RD: Tensor | None,
    grad_normed_RD: Tensor,
    total_RD: Tensor,
    weight: Tensor,
    mean: Tensor | None,
    rstd: Tensor,
    seed: Tensor | None,
    p: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the residual and of x (empty without dropout: the same), partial sums (G, D) of weight and bias."""
    R, D = total_RD.shape
    config = backward_config(tensor_arch(total_RD), D, R)
    programs = min(config.programs, triton.cdiv(R, config.rows))
    grad_residual = torch.empty_like(total_RD)
    grad_x = torch.empty_like(total_RD) if p > 0 else total_RD.new_empty(0)
    grad_weight = rstd.new_empty(programs, D)
    grad_bias = rstd.new_empty(programs if mean is not None else 0, D)
    launch(
        norm_backward,
        (programs,),
        grad_total_RD,
        grad_normed_RD,
        total_RD,
        weight,
        mean,
        rstd,
        seed,
        grad_residual,
        grad_x,
        grad_weight,
        grad_bias,
        R,
        D,
        dropout.threshold(p),
        dropout.keep_scale(p),
        GRAD_TOTAL=grad_total_RD is not None,
        CENTRED=mean is not None,
        DROPOUT=dropout.threshold(p) > 0,
        ROWS=config.rows,
        WIDTH=max(4, triton.next_power_of_2(D)),
        STAGES=config.stages,
        num_warps=config.warps,
    )
    return grad_residual, grad_x, grad_weight, grad_bias
