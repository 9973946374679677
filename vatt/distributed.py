"""Collectives with a gradient, and what they become in one process.

Every rank computes its own loss; what is trained is their mean. So a tensor that was sent to all ranks receives the sum
of the gradients of all ranks, and the averaging of gradients (DDP, DeepSpeed) makes the sum a mean.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

Group = Any  # torch.distributed.ProcessGroup, or None for all ranks


def world_size(group: Group = None) -> int:
    """Ranks in ``group``; 1 when torch.distributed was not initialised."""
    return dist.get_world_size(group) if dist.is_available() and dist.is_initialized() else 1


def rank(group: Group = None) -> int:
    """This rank in ``group``; 0 when torch.distributed was not initialised."""
    return dist.get_rank(group) if dist.is_available() and dist.is_initialized() else 0


def gather_rows(x: Tensor, group: Group = None) -> Tensor:
    """Concatenates ``x`` (B, ...) of all ranks along axis 0, in rank order, with gradient to every rank.

    B must be the same on all ranks.
    """
    return x if world_size(group) == 1 else _GatherRows.apply(x, group)


def sum_over_ranks(x: Tensor, group: Group = None) -> Tensor:
    """The sum of ``x`` over all ranks, with gradient to every rank."""
    return x if world_size(group) == 1 else _SumOverRanks.apply(x, group)


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
