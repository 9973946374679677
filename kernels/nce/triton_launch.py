"""Launches the contrastive loss kernels. Shapes: M queries, N keys, D width."""

from __future__ import annotations

import math

import torch
import triton
from torch import Tensor

from ..runtime import family_of, launch
from .blocks import blocks, splits
from .triton_kernels import similarity_lse_forward, similarity_lse_gradient

LOG2E = math.log2(math.e)


def forward(query: Tensor, key: Tensor, mask: Tensor | None, temperature: float) -> Tensor:
    """Partial log-sum-exps (S, M) in powers of two, float32."""
    (M, D), N = query.shape, key.shape[0]
    family = family_of(query)
    block = blocks("forward", family, query.dtype == torch.float32, M, N, D)
    tiles = triton.cdiv(M, block.own)
    parts = splits(family, tiles, triton.cdiv(N, block.other))
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
        BLOCK_M=block.own,
        BLOCK_N=block.other,
        DEPTH=block.depth,
        PRECISION="tf32x3",
        num_warps=block.warps,
        num_stages=block.stages,
    )
    return lse


def gradient(
    own: Tensor, other: Tensor, mask: Tensor | None, lse: Tensor, grad_lse: Tensor, temperature: float, queries: bool
) -> Tensor:
    """Partial gradients (S, rows of own, D) times the temperature, float32; ``queries``: own are the queries.

    ``lse`` is in powers of two.
    """
    (rows, D), others = own.shape, other.shape[0]
    family = family_of(own)
    block = blocks("gradient", family, own.dtype == torch.float32, rows, others, D)
    tiles, parts_of_width = triton.cdiv(rows, block.own), triton.cdiv(D, block.width)
    parts = splits(family, tiles * parts_of_width, triton.cdiv(others, block.other))
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
        BLOCK_OWN=block.own,
        BLOCK_OTHER=block.other,
        DEPTH=block.depth,
        WIDTH=block.width,
        PRECISION="tf32x3",
        num_warps=block.warps,
        num_stages=block.stages,
    )
    return partial
