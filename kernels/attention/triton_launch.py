"""Launches the attention kernels. Shapes: T tokens of all sequences, H heads, E head dim, N tokens of one sequence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
from torch import Tensor

from .. import dropout
from ..runtime import family_of, launch
from .blocks import Blocks, blocks
from .tiles import Segments, groups, tile_map
from .triton_backward import attention_backward_bias, attention_backward_keys, attention_backward_queries
from .triton_forward import attention_forward

BIAS_PROGRAMS = 16  # partial sums of the bias gradient


def _blocks(kernel: str, qkv: Tensor, length: int) -> Blocks:
    return blocks(kernel, family_of(qkv), qkv.shape[-1], length, qkv.dtype == torch.float32)


def _options(
    qkv: Tensor, mask: Tensor | None, bias: Tensor | None, p: float, block: Blocks, swapped: bool = False
) -> dict[str, Any]:
    """The launch parameters; ``swapped`` where a program keeps keys and walks over queries."""
    own, other = (block.other, block.own) if swapped else (block.own, block.other)
    return dict(
        MASK=mask is not None,
        BIAS=bias is not None,
        DROPOUT=p > 0,
        E=qkv.shape[-1],
        BLOCK_E=max(16, triton.next_power_of_2(qkv.shape[-1])),
        BLOCK_M=own,
        BLOCK_N=other,
        PRECISION="tf32x3",
        num_warps=block.warps,
        num_stages=block.stages,
    )


def forward(
    qkv: Tensor,
    segments: Segments,
    masked: Sequence[bool],
    mask: Tensor | None,
    bias: Tensor | None,
    seed: Tensor | None,
    scale: float,
    p: float,
) -> tuple[Tensor, Tensor]:
    """qkv (T, 3, H, E), mask (T,), bias (H, N, N) -> out (T, H, E), log-sum-exp (H, T).

    ``masked``: which segments the mask concerns.
    """
    T, _, H, E = qkv.shape
    out, lse = qkv.new_empty(T, H, E), qkv.new_empty(H, T, dtype=torch.float32)
    numbers = T, H, scale, dropout.threshold(p), dropout.keep_scale(p)
    for has_mask, length, chosen in groups(segments, masked):
        block = _blocks("forward", qkv, length)
        seen = mask if has_mask else None
        tiles = tile_map(segments, chosen, block.own, qkv.device)
        options = _options(qkv, seen, bias, p, block)
        launch(attention_forward, (len(tiles), H), qkv, seen, bias, seed, tiles, out, lse, *numbers, **options)
    return out, lse


def backward(
    grad_out: Tensor,
    qkv: Tensor,
    out: Tensor,
    lse: Tensor,
    segments: Segments,
    masked: Sequence[bool],
    mask: Tensor | None,
    bias: Tensor | None,
    seed: Tensor | None,
    scale: float,
    p: float,
) -> tuple[Tensor, Tensor]:
    """Gradients of qkv (T, 3, H, E), and of the bias as partial sums (P, H, N, N), which is empty without one."""
    T, _, H, _ = qkv.shape
    grad_qkv, delta = torch.empty_like(qkv), torch.empty_like(lse)
    numbers = T, H, scale, dropout.threshold(p), dropout.keep_scale(p)
    for has_mask, length, chosen in groups(segments, masked):
        inputs = qkv, mask if has_mask else None, bias, seed
        block = _blocks("queries", qkv, length)
        tiles = tile_map(segments, chosen, block.own, qkv.device)
        options, outputs = _options(qkv, inputs[1], bias, p, block), (out, lse, grad_out, delta, grad_qkv)
        launch(attention_backward_queries, (len(tiles), H), *inputs, tiles, *outputs, *numbers, **options)
        block = _blocks("keys", qkv, length)
        tiles = tile_map(segments, chosen, block.own, qkv.device)
        options = _options(qkv, inputs[1], bias, p, block, swapped=True)
        launch(attention_backward_keys, (len(tiles), H), *inputs, tiles, *outputs[1:], *numbers, **options)
    return grad_qkv, _bias_gradient(grad_out, qkv, lse, delta, segments, mask, bias, seed, scale, p)


def _bias_gradient(
    grad_out: Tensor,
    qkv: Tensor,
    lse: Tensor,
    delta: Tensor,
    segments: Segments,
    mask: Tensor | None,
    bias: Tensor | None,
    seed: Tensor | None,
    scale: float,
    p: float,
) -> Tensor:
    if bias is None:
        return lse.new_empty(0)
    T, _, H, _ = qkv.shape
    ((B, N),) = segments
    block = _blocks("bias", qkv, N)
    programs = min(BIAS_PROGRAMS, B)
    grad_bias = lse.new_empty(programs, H, N, N)
    options = _options(qkv, mask, bias, p, block)
    del options["BIAS"]
    grid = (triton.cdiv(N, block.own) * triton.cdiv(N, block.other), H, programs)
    numbers = B, N, T, H, scale, dropout.threshold(p), dropout.keep_scale(p)
    tensors = qkv, mask, bias, seed, lse, grad_out, delta, grad_bias
    launch(attention_backward_bias, grid, *tensors, *numbers, **options)
    return grad_bias
