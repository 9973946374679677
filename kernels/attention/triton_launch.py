"""Launches the attention kernels, with their launch configs.

Shapes: T tokens of all sequences, H heads, E head dim, N tokens of one sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from .. import dropout
from ..runtime import INTERPRETER, interpreter_block, launch, tensor_arch
from .triton_backward import attention_backward_bias, attention_backward_keys, attention_backward_queries
from .triton_kernels import attention_forward
from .varlen import SHORT, Segments, groups, tile_map

BIAS_PROGRAMS = 16  # partial sums of the bias gradient
TAIL = 32  # tokens of a step behind the last whole block


class LaunchConfig(NamedTuple):
    """``own``: tokens that a program keeps; ``other``: tokens a step of its loop reads; ``registers``: at most so many
    a thread where one program more then fits on a multiprocessor (0: as the compiler likes)."""

    own: int
    other: int
    warps: int
    stages: int
    registers: int = 0


# Sentences: one program per sequence and head. Not 16 tokens a step: in half precision Triton 3.6 and 3.7 sum products
# of 16 terms wrongly where an 8-bit mask is among what they depend on (`bench compiled` looks for it).
SHORT_CONFIGS = dict.fromkeys(("forward", "bias", "queries", "keys"), LaunchConfig(32, 32, 4, 1))

# (kernel, arch, head dim up to), not yet swept on a GPU: for sm90 by a model of it (bench/LOG.md), for sm80 by what
# PyTorch's flex attention takes there, for sm100 by occupancy and products of 128 rows, which are faster than of 64.
LONG_CONFIGS = {
    ("forward", "sm80", 64): LaunchConfig(128, 64, 4, 3),
    ("forward", "sm80", 128): LaunchConfig(128, 64, 8, 3),
    ("forward", "sm90", 64): LaunchConfig(128, 64, 8, 3, 128),
    ("forward", "sm90", 128): LaunchConfig(128, 64, 8, 3),
    ("forward", "sm100", 64): LaunchConfig(128, 32, 8, 3, 128),
    ("forward", "sm100", 128): LaunchConfig(128, 64, 8, 2),
    ("queries", "sm80", 64): LaunchConfig(64, 64, 4, 2),
    ("queries", "sm80", 128): LaunchConfig(64, 64, 8, 2),
    ("queries", "sm90", 64): LaunchConfig(128, 64, 8, 3, 128),
    ("queries", "sm90", 128): LaunchConfig(64, 32, 4, 3),
    ("queries", "sm100", 64): LaunchConfig(128, 32, 8, 3, 128),
    ("queries", "sm100", 128): LaunchConfig(128, 32, 8, 2),
    ("keys", "sm80", 64): LaunchConfig(64, 32, 4, 3),
    ("keys", "sm80", 128): LaunchConfig(64, 32, 8, 3),
    ("keys", "sm90", 64): LaunchConfig(64, 32, 4, 3, 168),
    ("keys", "sm90", 128): LaunchConfig(64, 16, 4, 3),
    ("keys", "sm100", 64): LaunchConfig(128, 32, 8, 3, 128),
    ("keys", "sm100", 128): LaunchConfig(128, 32, 8, 2),
}
# A mask needs more registers, a bias still more.
MASKED_CONFIGS = {
    ("forward", "sm80", 128): LaunchConfig(64, 32, 4, 3),
    ("keys", "sm80", 128): LaunchConfig(32, 32, 8, 2),
    ("queries", "sm100", 128): LaunchConfig(64, 32, 4, 2),
    ("queries", "sm90", 64): LaunchConfig(64, 64, 4, 3),
    ("keys", "sm90", 64): LaunchConfig(64, 16, 4, 3),
}
BIASED_CONFIGS = {
    "forward": LaunchConfig(64, 32, 8, 2),
    "queries": LaunchConfig(64, 32, 4, 2),
    "keys": LaunchConfig(64, 32, 8, 1),
}
# Twice the bytes, and three products for each.
FP32_CONFIGS = {
    "forward": LaunchConfig(64, 32, 8, 1),
    "queries": LaunchConfig(32, 32, 4, 1),
    "keys": LaunchConfig(32, 32, 8, 1),
}


def launch_config(kernel: str, qkv: Tensor, length: int, masked: bool, biased: bool) -> LaunchConfig:
    """For sequences of up to ``length`` tokens; ``kernel`` is "forward", "queries" (dq), "keys" (dk, dv) or "bias"."""
    arch = tensor_arch(qkv)
    if arch == INTERPRETER:
        block = 32 if 16 < length <= SHORT else interpreter_block(length)
        return LaunchConfig(block, block, 4, 1)
    if length <= SHORT or kernel == "bias":
        return SHORT_CONFIGS[kernel]
    if qkv.dtype == torch.float32:
        return FP32_CONFIGS[kernel]
    if biased:
        return BIASED_CONFIGS[kernel]
    key = kernel, arch, 64 if qkv.shape[-1] <= 64 else 128
    return MASKED_CONFIGS[key] if masked and key in MASKED_CONFIGS else LONG_CONFIGS[key]


def _meta(
    qkv: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    p: float,
    config: LaunchConfig,
    length: int,
    swapped: bool = False,
) -> dict[str, Any]:
    """The meta-parameters of a launch; ``swapped`` where a program keeps keys and walks over queries."""
    own, other = (config.other, config.own) if swapped else (config.own, config.other)
    return dict(
        MASK=mask is not None,
        BIAS=bias is not None,
        DROPOUT=p > 0,
        E=qkv.shape[-1],
        BLOCK_E=max(16, triton.next_power_of_2(qkv.shape[-1])),
        BLOCK_M=own,
        BLOCK_N=other,
        TAIL=0 if length <= SHORT else min(TAIL, config.other),
        PRECISION="tf32x3",
        num_warps=config.warps,
        num_stages=config.stages,
        **(dict(maxnreg=config.registers) if config.registers else {}),
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
        seen = mask if has_mask else None
        config = launch_config("forward", qkv, length, has_mask, bias is not None)
        tiles = tile_map(segments, chosen, config.own, qkv.device)
        meta = _meta(qkv, seen, bias, p, config, length)
        meta["POSITIVE"] = scale > 0
        launch(attention_forward, (len(tiles), H), qkv, seen, bias, seed, tiles, out, lse, *numbers, **meta)
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
    row_keys = torch.empty_like(lse, dtype=torch.int32) if p > 0 else None
    numbers = T, H, scale, dropout.threshold(p), dropout.keep_scale(p)
    for has_mask, length, chosen in groups(segments, masked):
        inputs = qkv, mask if has_mask else None, bias
        config = launch_config("queries", qkv, length, has_mask, bias is not None)
        tiles = tile_map(segments, chosen, config.own, qkv.device)
        meta = _meta(qkv, inputs[1], bias, p, config, length)
        outputs = lse, grad_out, delta, row_keys, grad_qkv
        launch(
            attention_backward_queries,
            (len(tiles), H),
            *inputs,
            seed,
            tiles,
            out,
            *outputs,
            *numbers,
            dropout.keep_share(p),
            **meta,
        )
        config = launch_config("keys", qkv, length, has_mask, bias is not None)
        tiles = tile_map(segments, chosen, config.own, qkv.device)
        meta = _meta(qkv, inputs[1], bias, p, config, length, swapped=True)
        launch(attention_backward_keys, (len(tiles), H), *inputs, tiles, *outputs, *numbers, **meta)
    return grad_qkv, _bias_gradient(grad_out, qkv, lse, delta, row_keys, segments, mask, bias, scale, p)


def _bias_gradient(
    grad_out: Tensor,
    qkv: Tensor,
    lse: Tensor,
    delta: Tensor,
    row_keys: Tensor | None,
    segments: Segments,
    mask: Tensor | None,
    bias: Tensor | None,
    scale: float,
    p: float,
) -> Tensor:
    if bias is None:
        return lse.new_empty(0)
    T, _, H, _ = qkv.shape
    ((B, N),) = segments
    config = launch_config("bias", qkv, N, mask is not None, True)
    programs = min(BIAS_PROGRAMS, B)
    grad_bias = lse.new_empty(programs, H, N, N)
    meta = _meta(qkv, mask, bias, p, config, N)
    del meta["BIAS"], meta["TAIL"]
    grid = (triton.cdiv(N, config.own) * triton.cdiv(N, config.other), H, programs)
    numbers = B, N, T, H, scale, dropout.threshold(p), dropout.keep_scale(p)
    tensors = qkv, mask, bias, lse, grad_out, delta, row_keys, grad_bias
    launch(attention_backward_bias, grid, *tensors, *numbers, **meta)
    return grad_bias
