"""Launches the contrastive loss kernels, with their launch configs. Shapes: M queries, N keys, D width."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from ..runtime import INTERPRETER, interpreter_block, launch, tensor_arch
from .triton_kernels import similarity_lse_forward, similarity_lse_gradient

LOG2E = math.log2(math.e)


class LaunchConfig(NamedTuple):
    """``own`` rows a program keeps, ``other`` rows a step of its loop reads, ``depth`` of their product, ``width``: the
    columns of the gradient that one program makes (the similarities are computed again for each such part)."""

    own: int
    other: int
    depth: int
    width: int
    warps: int
    stages: int


# (kernel, float32, arch): not yet swept on a GPU. A product of float32 is three of tf32.
CONFIGS = {
    ("forward", False, "sm80"): LaunchConfig(128, 128, 64, 0, 8, 3),
    ("forward", False, "sm90"): LaunchConfig(128, 128, 64, 0, 8, 3),
    ("forward", False, "sm100"): LaunchConfig(128, 128, 64, 0, 8, 3),
    ("forward", True, "sm80"): LaunchConfig(128, 64, 32, 0, 8, 2),
    ("forward", True, "sm90"): LaunchConfig(128, 64, 32, 0, 8, 2),
    ("forward", True, "sm100"): LaunchConfig(128, 64, 32, 0, 8, 2),
    ("gradient", False, "sm80"): LaunchConfig(128, 64, 64, 128, 8, 2),
    ("gradient", False, "sm90"): LaunchConfig(64, 64, 64, 256, 8, 2),
    ("gradient", False, "sm100"): LaunchConfig(64, 64, 64, 128, 4, 2),
    ("gradient", True, "sm80"): LaunchConfig(32, 32, 32, 64, 4, 1),
    ("gradient", True, "sm90"): LaunchConfig(64, 32, 32, 128, 8, 1),
    ("gradient", True, "sm100"): LaunchConfig(64, 64, 32, 64, 4, 1),
}
PROGRAMS = {"interpreter": 3, "sm80": 216, "sm90": 264, "sm100": 296}


def launch_config(kernel: str, arch: str, fp32: bool, own: int, other: int, width: int) -> LaunchConfig:
    """``kernel`` is "forward" or "gradient"; ``fp32``: float32 rows; the numbers of rows and their width."""
    if arch == INTERPRETER:
        depth = interpreter_block(width)
        return LaunchConfig(interpreter_block(own), interpreter_block(other), depth, depth, 4, 1)
    return CONFIGS[kernel, fp32, arch]


def split_count(arch: str, tiles: int, steps: int) -> int:
    """Into how many parts the ``steps`` of a loop are divided, so that few local rows still fill the GPU."""
    return max(1, min(PROGRAMS[arch] // max(tiles, 1), steps))


def forward(query: Tensor, key: Tensor, mask: Tensor | None, temperature: float) -> Tensor:
    """Partial log-sum-exps (S, M) in powers of two, float32."""
    (M, D), N = query.shape, key.shape[0]
    arch = tensor_arch(query)
    config = launch_config("forward", arch, query.dtype == torch.float32, M, N, D)
    tiles = triton.cdiv(M, config.own)
    parts = split_count(arch, tiles, triton.cdiv(N, config.other))
    lse = query.new_empty(parts, M, dtype=torch.float32)
    launch(
        similarity_lse_forward,
        (tiles, parts),
        query,
        key,
        mask,
        lse,
        M,
        N,
        D,
        LOG2E / temperature,
        MASK=mask is not None,
        BLOCK_M=config.own,
        BLOCK_N=config.other,
        DEPTH=config.depth,
        PRECISION="tf32x3",
        num_warps=config.warps,
        num_stages=config.stages,
    )
    return lse


def gradient(
    own: Tensor, other: Tensor, mask: Tensor | None, lse: Tensor, grad_lse: Tensor, temperature: float, queries: bool
) -> Tensor:
    """Partial gradients (S, rows of own, D) times the temperature, float32; ``queries``: own are the queries.

    ``lse`` is in powers of two.
    """
    (rows, D), others = own.shape, other.shape[0]
    arch = tensor_arch(own)
    config = launch_config("gradient", arch, own.dtype == torch.float32, rows, others, D)
    tiles, parts_of_width = triton.cdiv(rows, config.own), triton.cdiv(D, config.width)
    parts = split_count(arch, tiles * parts_of_width, triton.cdiv(others, config.other))
    partial = own.new_empty(parts, rows, D, dtype=torch.float32)
    launch(
        similarity_lse_gradient,
        (tiles, parts_of_width, parts),
        own,
        other,
        mask,
        lse,
        grad_lse,
        partial,
        rows,
        others,
        D,
        LOG2E / temperature,
        QUERIES=queries,
        MASK=mask is not None,
        BLOCK_OWN=config.own,
        BLOCK_OTHER=config.other,
        DEPTH=config.depth,
        WIDTH=config.width,
        PRECISION="tf32x3",
        num_warps=config.warps,
        num_stages=config.stages,
    )
    return partial
