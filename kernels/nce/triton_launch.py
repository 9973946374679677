"""Launches the contrastive loss kernels, with their launch configs. Shapes: M queries, N keys, D width."""

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from ..runtime import INTERPRETER, interpreter_block, launch, tensor_arch
from .triton_kernels import combine_lse, similarity_lse_forward, similarity_lse_gradient

LOG2E = math.log2(math.e)
PRECISION = "tf32x3"  # of products of float32
LOWERED = -1e9  # added to similarities with a masked row, in powers of two
FP16_WEIGHT = (
    2.0**14
)  # the largest gradient of a log-sum-exp in float16, so that weights of 2^-38 of it are still there


class LaunchConfig(NamedTuple):
    """``own`` rows a program keeps, ``other`` rows a step of its loop reads, ``depth`` of their product, ``width``: the
    columns of the gradient that one program makes. A program that holds its own rows has depth and width 0: all."""

    own: int
    other: int
    depth: int
    width: int
    warps: int
    stages: int


# (kernel, rows, arch): not yet swept on a GPU. "narrow": half types up to HELD_WIDTHS[0] wide, "wide": up to
# HELD_WIDTHS[1]; both are held. "any": other half types, "float32": whose product is three of tf32.
HELD_WIDTHS = (256, 512)
CONFIGS = {
    ("forward", "narrow", "sm80"): LaunchConfig(128, 64, 0, 0, 8, 2),
    ("forward", "narrow", "sm90"): LaunchConfig(128, 32, 0, 0, 4, 3),
    ("forward", "narrow", "sm100"): LaunchConfig(128, 64, 0, 0, 8, 3),
    ("forward", "wide", "sm80"): LaunchConfig(64, 32, 0, 0, 4, 2),
    ("forward", "wide", "sm90"): LaunchConfig(128, 32, 0, 0, 4, 2),
    ("forward", "wide", "sm100"): LaunchConfig(128, 32, 0, 0, 8, 2),
    ("forward", "any", "sm80"): LaunchConfig(128, 128, 64, 0, 8, 3),
    ("forward", "any", "sm90"): LaunchConfig(128, 128, 64, 0, 8, 3),
    ("forward", "any", "sm100"): LaunchConfig(128, 128, 64, 0, 8, 3),
    ("forward", "float32", "sm80"): LaunchConfig(128, 64, 32, 0, 8, 2),
    ("forward", "float32", "sm90"): LaunchConfig(128, 64, 32, 0, 8, 3),
    ("forward", "float32", "sm100"): LaunchConfig(128, 64, 32, 0, 8, 2),
    ("gradient", "narrow", "sm80"): LaunchConfig(64, 64, 0, 0, 8, 2),
    ("gradient", "narrow", "sm90"): LaunchConfig(64, 32, 0, 0, 4, 3),
    ("gradient", "narrow", "sm100"): LaunchConfig(128, 64, 0, 0, 8, 2),
    ("gradient", "wide", "sm80"): LaunchConfig(64, 32, 0, 0, 8, 2),
    ("gradient", "wide", "sm90"): LaunchConfig(64, 32, 0, 0, 8, 4),
    ("gradient", "wide", "sm100"): LaunchConfig(64, 32, 0, 0, 8, 2),
    ("gradient", "any", "sm80"): LaunchConfig(128, 64, 64, 128, 8, 2),
    ("gradient", "any", "sm90"): LaunchConfig(64, 64, 64, 256, 8, 2),
    ("gradient", "any", "sm100"): LaunchConfig(64, 64, 64, 128, 4, 2),
    ("gradient", "float32", "sm80"): LaunchConfig(64, 32, 32, 128, 8, 1),
    ("gradient", "float32", "sm90"): LaunchConfig(64, 32, 32, 128, 8, 1),
    ("gradient", "float32", "sm100"): LaunchConfig(64, 64, 32, 64, 4, 1),
}
PROGRAMS = {INTERPRETER: 3, "sm80": 216, "sm90": 264, "sm100": 296}  # that run at the same time, two a multiprocessor
WAVES = 4  # a loop is divided until programs fill this many waves well
QUERY_BLOCKS = {INTERPRETER: 2, "sm80": 64, "sm90": 64, "sm100": 64}  # a launch that writes partial sums of keys
COMBINE_BLOCK = 512


def rows_kind(dtype: torch.dtype, width: int) -> str:
    """Which entries of `CONFIGS` rows of ``width`` columns use."""
    if dtype == torch.float32:
        return "float32"
    return "narrow" if width <= HELD_WIDTHS[0] else "wide" if width <= HELD_WIDTHS[1] else "any"


def launch_config(kernel: str, arch: str, dtype: torch.dtype, own: int, other: int, width: int) -> LaunchConfig:
    """``kernel`` is "forward" or "gradient"; the type of the products, the numbers of rows and their width. Depth and
    width of the result are filled in: rows are held if the depth is at least ``width``."""
    kind = rows_kind(dtype, width)
    if arch == INTERPRETER:
        depth = interpreter_block(width) if kind in ("float32", "any") else 0
        found = LaunchConfig(interpreter_block(own), interpreter_block(other), depth, depth, 4, 1)
    else:
        found = CONFIGS[kernel, kind, arch]
    if found.depth:
        return found
    whole = max(16, triton.next_power_of_2(width))
    return found._replace(depth=whole, width=whole)


@cache
def split_count(arch: str, tiles: int, steps: int) -> int:
    """Into how many parts the ``steps`` of a loop are divided: few, but so that the last wave of programs is full."""
    slots, tiles = PROGRAMS[arch], max(tiles, 1)

    def idle(parts: int) -> float:
        waves = -(-tiles * parts // slots)
        return 1 - tiles * parts / (waves * slots)

    choices = range(1, max(1, min(steps, WAVES * slots // tiles)) + 1)
    full = next((parts for parts in choices if idle(parts) < 0.1), None)
    return full or min(choices, key=idle)


def lse(
    query: Tensor, key: Tensor, query_valid: Tensor | None, key_valid: Tensor | None, temperature: float, keys: bool
) -> tuple[Tensor, Tensor | None]:
    """The log-sum-exp of the similarities of each query with all valid keys, (M,), and with ``keys`` that of each key
    with all valid queries, (N,), else None; float32."""
    (M, D), N = query.shape, key.shape[0]
    arch = tensor_arch(query)
    config = launch_config("forward", arch, query.dtype, M, N, D)
    query_offset, key_offset = _offset(query_valid), _offset(key_valid)
    query_lse = query.new_empty(M, dtype=torch.float32)
    key_lse = query.new_empty(0, dtype=torch.float32)
    # With ``keys`` a launch writes partial sums of all keys for each block of queries. Few blocks a launch, so that
    # memory grows with the keys and not with the pairs.
    step = QUERY_BLOCKS[arch] * config.own if keys else max(M, 1)
    for first in range(0, M, step):
        rows = slice(first, min(first + step, M))
        offset = None if query_offset is None else query_offset[rows]
        partial, partial_keys = _forward(query[rows], key, offset, key_offset, temperature, keys, config, arch)
        _combine(partial, query_lse[rows])
        if partial_keys is not None:
            found = _combine(partial_keys, query.new_empty(N, dtype=torch.float32))
            key_lse = found if first == 0 else torch.logaddexp(key_lse, found)
    return query_lse, key_lse if keys else None


def _offset(valid: Tensor | None) -> Tensor | None:
    """What is added to the similarities with a row. In float32, which a loop of the kernels can load ahead."""
    return None if valid is None else (valid == 0).to(torch.float32) * LOWERED


def _forward(
    query: Tensor,
    key: Tensor,
    query_offset: Tensor | None,
    key_offset: Tensor | None,
    temperature: float,
    keys: bool,
    config: LaunchConfig,
    arch: str,
) -> tuple[Tensor, Tensor | None]:
    (M, D), N = query.shape, key.shape[0]
    tiles = triton.cdiv(M, config.own)
    parts = split_count(arch, tiles, triton.cdiv(N, config.other))
    partial = query.new_empty(parts, M, dtype=torch.float32)
    partial_keys = query.new_empty(tiles, N, dtype=torch.float32) if keys else None
    query_offset = query_offset if keys else None
    launch(
        similarity_lse_forward,
        (tiles, parts),
        query,
        key,
        query_offset,
        key_offset,
        partial,
        partial_keys,
        M,
        N,
        D,
        LOG2E / temperature,
        KEYS=keys,
        QUERY_MASK=query_offset is not None,
        KEY_MASK=key_offset is not None,
        HELD=config.depth >= D,
        BLOCK_M=config.own,
        BLOCK_N=config.other,
        DEPTH=config.depth,
        PRECISION=PRECISION,
        num_warps=config.warps,
        num_stages=config.stages,
    )
    return partial, partial_keys


def _combine(partial: Tensor, out: Tensor) -> Tensor:
    """Writes the log-sum-exp over the first axis of ``partial`` (S, R) into ``out`` (R,)."""
    S, R = partial.shape
    grid = (triton.cdiv(R, COMBINE_BLOCK),)
    launch(combine_lse, grid, partial, out, S, R, BLOCK=COMBINE_BLOCK)
    return out


Pair = tuple[Tensor, Tensor]


def gradient(
    own: Tensor,
    other: Tensor,
    own_valid: Tensor | None,
    other_valid: Tensor | None,
    own_lse: Pair | None,
    other_lse: Pair | None,
    temperature: float,
    dtype: torch.dtype,
) -> Tensor:
    """The gradient of ``own`` (rows, D), in ``dtype``.

    Args:
        own_valid, other_valid: 0 for rows that no row of the other side sees, (rows,).
        own_lse: the log-sum-exp of each own row over the other rows and its gradient, both (rows,); None if it is not
            part of the loss. ``other_lse``: the same of the other rows over the own ones.
    """
    (rows, D), others = own.shape, other.shape[0]
    arch = tensor_arch(own)
    config = launch_config("gradient", arch, own.dtype, rows, others, D)
    tiles, parts_of_width = triton.cdiv(rows, config.own), triton.cdiv(D, config.width)
    parts = split_count(arch, tiles * parts_of_width, triton.cdiv(others, config.other))
    partial = own.new_empty(parts, rows, D, dtype=dtype if parts == 1 else torch.float32)
    unit = None
    if own.dtype == torch.float16 and rows and others:
        largest = torch.stack([pair[1].abs().amax() for pair in (own_lse, other_lse) if pair is not None]).amax()
        unit = largest.clamp_min(torch.finfo(torch.float32).tiny * FP16_WEIGHT) / FP16_WEIGHT
        own_lse, other_lse = (None if pair is None else (pair[0], pair[1] / unit) for pair in (own_lse, other_lse))
    own_offset = _offset(own_valid) if other_lse is not None else None
    other_offset = _offset(other_valid) if own_lse is not None else None
    launch(
        similarity_lse_gradient,
        (tiles, parts_of_width, parts),
        own,
        other,
        own_offset,
        other_offset,
        *(own_lse or (None, None)),
        *(other_lse or (None, None)),
        unit,
        partial,
        rows,
        others,
        D,
        LOG2E / temperature,
        1 / temperature,
        UNIT=unit is not None,
        OWN=own_lse is not None,
        OTHER=other_lse is not None,
        OWN_MASK=own_offset is not None,
        OTHER_MASK=other_offset is not None,
        HELD=config.depth >= D and config.width >= D,
        BLOCK_OWN=config.own,
        BLOCK_OTHER=config.other,
        DEPTH=config.depth,
        WIDTH=config.width,
        PRECISION=PRECISION,
        num_warps=config.warps,
        num_stages=config.stages,
    )
    return partial[0] if parts == 1 else partial.sum(0).to(dtype)
