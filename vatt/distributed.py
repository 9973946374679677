"""Collectives with a gradient, and what they become in one process.

Every rank computes its own loss, and training minimises the mean over ranks. So a tensor that was sent to all ranks
receives the sum of the gradients of all ranks, and the averaging of gradients (DDP, DeepSpeed) makes the sum a mean.

Shapes must be equal on all ranks: otherwise gloo aborts the process and NCCL hangs. On the CPU every gather compares
the shapes first (`check_equal`). On a GPU that would make the host wait in the middle of a step, so there the training
loop compares the batches before the step (`train.core.ranks.agree`), where it waits for the other ranks anyway.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from vatt.errors import UserError

_AXES = 8  # of a shape that is compared
_FAR = 1_000_003  # more than a batch has clips, so that the seeds of two steps do not meet
Group = Any  # torch.distributed.ProcessGroup, or None for all ranks


def world_size(group: Group = None) -> int:
    """Ranks in ``group``; 1 when torch.distributed was not initialised."""
    return dist.get_world_size(group) if dist.is_available() and dist.is_initialized() else 1


def rank(group: Group = None) -> int:
    """This rank in ``group``; 0 when torch.distributed was not initialised."""
    return dist.get_rank(group) if dist.is_available() and dist.is_initialized() else 0


def ranks_here() -> int:
    """Ranks on this machine, as the launcher says (torchrun, DeepSpeed); all of the job where it does not."""
    known = (os.environ.get(name) for name in ("LOCAL_WORLD_SIZE", "LOCAL_SIZE", "WORLD_SIZE"))
    return int(next((count for count in known if count), "1"))


def first_of_rank(count: int) -> int:
    """The place of this rank's first clip in the batch of all ranks, of which each has ``count``."""
    return rank() * count


def seed_of_place(seed: int, first: int) -> int:
    """A seed for what is drawn for the clips from place ``first`` of the batch of all ranks on, in the step of
    ``seed``; below 2^63."""
    return (seed * _FAR + first + 1) % 2**63


class UnequalRanks(UserError, ValueError):
    """Ranks came together with different sizes. It is raised on all of them; the message has the size of each."""


def check_equal(what: str, sizes: Sequence[int], group: Group = None) -> None:
    """Compares ``sizes`` with those of the other ranks. All ranks must call, with equally many sizes; the host waits.

    Raises:
        UnequalRanks: on every rank, if any two of them differ.
    """
    ranks = world_size(group)
    if ranks == 1:
        return
    device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend(group) == "nccl" else "cpu"
    own = torch.tensor(sizes, dtype=torch.int64, device=device)
    parts = [torch.empty_like(own) for _ in range(ranks)]
    dist.all_gather(parts, own, group=group)
    by_rank = torch.stack(parts).tolist()
    if any(other != by_rank[0] for other in by_rank):
        values = ", ".join(f"{_readable(other)} on rank {number}" for number, other in enumerate(by_rank))
        raise UnequalRanks(f"{what}: must be equal on all ranks, but is {values}")


def _readable(sizes: list[int]) -> str:
    known = [size for size in sizes if size >= 0]
    return str(known[0]) if len(known) == 1 else str(tuple(known))


def gather_rows(x: Tensor, group: Group = None) -> Tensor:
    """Concatenates ``x`` (B, ...) of all ranks along axis 0, in rank order, with gradient to every rank.

    Raises:
        UnequalRanks: on the CPU, on every rank: the shapes differ. On a GPU the caller must compare them.
    """
    if world_size(group) == 1:
        return x
    if x.is_meta:  # has a shape, and nothing to send
        return torch.cat([x] * world_size(group))
    if x.device.type == "cpu":
        check_equal("gather_rows, shape", [*x.shape, *[-1] * (_AXES - x.ndim)], group)
    return _GatherRows.apply(x, group)


def sum_over_ranks(x: Tensor, group: Group = None) -> Tensor:
    """The sum of ``x`` over all ranks, with gradient to every rank."""
    return x if world_size(group) == 1 or x.is_meta else _SumOverRanks.apply(x, group)


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        ctx.group, ctx.rows = group, x.shape[0]
        x = x.contiguous()
        parts = [torch.empty_like(x) for _ in range(world_size(group))]
        dist.all_gather(parts, x, group=group)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        total = grads[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=ctx.group)  # reduce-scatter would send less, but gloo has none
        return total.narrow(0, rank(ctx.group) * ctx.rows, ctx.rows), None


class _SumOverRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        ctx.group = group
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        total = grads[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=ctx.group)
        return total, None
