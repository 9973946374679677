"""What the fast paths of a CPU share: the calls that they can run, and the dropout mask in 32-bit arithmetic.

They are autograd functions in plain PyTorch, registered as the backend "cpu". Passes over memory cost more than
arithmetic on a CPU, so they work in place, on blocks that stay in its cache.

The mask is that of `dropout.py` bit by bit, at a third of the cost of PyTorch's own random numbers, which one thread
draws. It is kept for the backward pass as the signed 16-bit scores that decide. As floats they select (`select`) five
times as fast as booleans would.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .dropout import GROUP, LEVELS, M1, MA, MB, column_keys, row_keys, threshold
from .registry import Call, refuse_non_float

BLOCK = 1 << 16  # elements that a thread works on at a time: arrays of a quarter of a megabyte
_TYPES = (torch.float32, torch.float64)


def refuse_cpu(call: Call) -> list[str]:
    """The reasons why the functions of the backend "cpu" cannot run ``call``."""
    reasons = [] if call.device.type == "cpu" else [f"runs on a CPU, not on {call.device.type!r}"]
    reasons += refuse_non_float(call)
    if call.dtype.is_floating_point and call.dtype not in _TYPES:
        reasons.append(f"has float32 and float64, got {call.dtype}")
    if torch.compiler.is_compiling():
        reasons.append("is eager; torch.compile fuses the plain operations itself")
    elif torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        reasons.append("has a gradient for backward(), but no rules for torch.func and forward mode")
    elif torch.is_autocast_enabled("cpu"):
        reasons.append("computes in the type of its inputs, without autocast")
    return reasons


def differentiable(
    reference: Callable[..., Tensor], inputs: Sequence[Any], others: Sequence[Any], grad: Tensor, wanted: Sequence[bool]
) -> list[Tensor | None]:
    """The gradients of the ``inputs`` that are wanted, of reference(*inputs, *others), made so that they can be
    differentiated again (create_graph=True): through the plain operations."""
    chosen = [x for x, needed in zip(inputs, wanted, strict=False) if needed]
    found = iter(torch.autograd.grad(reference(*inputs, *others), chosen, grad, create_graph=True))
    return [next(found) if needed else None for _, needed in zip(inputs, wanted, strict=False)]


def blocks(step: int, *arrays: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Views of ``step`` rows of each array at a time: one split of an array costs less than many slices."""
    return zip(*(array.split(step) for array in arrays), strict=True)


def rows_of_block(columns: int) -> int:
    """The rows of an array that fit into the cache."""
    return max(1, torch.get_num_threads() * BLOCK // max(1, columns))


def select(x: Tensor, scores: Tensor, p: float, out: Tensor) -> Tensor:
    """``x`` where its element is kept, else 0; ``scores`` as numbers of the type of ``x``."""
    return torch.ops.aten.threshold_backward.grad_input(x, scores, least_kept(p), grad_input=out)


def least_kept(p: float) -> float:
    """Scores of kept elements are above it."""
    return threshold(p) - LEVELS / 2 - 0.5


def row_scores(seed: Tensor, rows: int, columns: int) -> Tensor:
    """int16 (R, D), the scores of the mask `dropout.keep_mask` of an array (R, D), less by 2^15."""
    keys_R1 = signed(row_keys(seed, torch.arange(rows)))[:, None]
    # Two numbers for each group of four columns, one for each multiplier.
    groups = torch.arange(-(-columns // GROUP)).repeat_interleave(2)
    of_columns, pair = (
        signed_column_keys(column_keys(groups)),
        torch.tensor([as_int32(MA), as_int32(MB)], dtype=torch.int32),
    )
    multipliers = pair.repeat(len(groups) // 2)
    x, step = torch.empty(rows, len(groups), dtype=torch.int32), rows_of_block(columns)
    scratch = torch.empty_like(x[:step])
    for part, keys in blocks(step, x, keys_R1):
        y = scratch[: len(part)]
        torch.bitwise_xor(keys, of_columns, out=part)
        mix(part, y)
        finish(part.mul_(multipliers), y)
    return x.view(torch.int16)[:, :columns]


def score_blocks(scores: Tensor, *arrays: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Blocks of ``arrays`` (R, D), each with its scores in their type, which are valid until the next."""
    step = rows_of_block(scores.shape[1])
    numbers = arrays[0].new_empty(scores[:step].shape)
    for part, *others in blocks(step, scores, *arrays):
        yield numbers[: len(part)].copy_(part), *others


def signed(x: Tensor) -> Tensor:
    """Numbers below 2^32 as int32 with the same bits."""
    return torch.where(x >= 1 << 31, x - (1 << 32), x).to(torch.int32)


def as_int32(number: int) -> int:
    """As `signed`, of one number."""
    return number - (1 << 32) if number >= 1 << 31 else number


def signed_column_keys(keys: Tensor) -> Tensor:
    """As `signed`, with the highest bit turned, see `mix`."""
    return signed(keys ^ (1 << 31))


def mix(x: Tensor, y: Tensor) -> None:
    """In place: the steps of the hash before its elements part. ``y`` is scratch memory.

    A shift of int32 draws the sign in. With the highest bit of ``x`` turned, which odd multipliers leave so, adding
    2^16 mends that; and after `finish` the highest bits of both scores are turned, so that their order is that of
    signed numbers.
    """
    x.mul_(M1)
    torch.bitwise_right_shift(x, 15, out=y)
    x.bitwise_xor_(y.add_(1 << 16))


def finish(x: Tensor, y: Tensor) -> Tensor:
    """In place, after the multiplication by MA or MB: two scores in each number of ``x``, as int16."""
    torch.bitwise_right_shift(x, 16, out=y)
    return x.bitwise_xor_(y.bitwise_and_(0xFFFF)).view(torch.int16)
