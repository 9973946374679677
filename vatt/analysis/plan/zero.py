"""Bytes that DeepSpeed 0.19.8 keeps on one rank beside the activations, by ZeRO stage.

They are bytes of distinct storages; tests/analysis/test_plan.py compares them with what the ranks of a real run
allocate. Only trainable parameters have gradients, moments and fp32 weights: a frozen word table has none.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import accumulate

import torch
from torch import nn

from vatt.models import VATT
from vatt.models.config import VATTConfig

STAGES = (0, 1, 2, 3)
FP32 = 4


@dataclass(frozen=True)
class Buckets:
    """Sizes in elements: DeepSpeed's defaults, which our generated settings leave as they are (a test compares)."""

    reduce_bucket_size: int = 500_000_000
    prefetch_bucket_size: int = 50_000_000
    param_persistence_threshold: int = 100_000
    max_reuse_distance: int = 1_000_000_000


@dataclass(frozen=True)
class States:
    """Bytes on one rank.

    ``parameters``: in the training type, with the frozen ones and the buffers of batch norms; ``master``: the
    optimizer's fp32 weights; ``moments``: both of Adam's; ``gradients``: from the backward pass to the update;
    ``update``: fp32 gradients that exist only during the optimizer's step; ``gathered``: ZeRO-3's whole parameters, at
    most; ``persistent``: those of them that stay whole; ``buckets``: of gradients, in the backward pass; ``copies``: of
    a bucket's content, while it is reduced; ``idle``: gradients and buckets that stay allocated between two steps.
    """

    parameters: int
    master: int
    moments: int
    gradients: int
    update: int
    gathered: int
    persistent: int
    buckets: int
    copies: int
    idle: int

    @property
    def steady(self) -> int:
        """Bytes between two steps."""
        return self.parameters + self.master + self.moments + self.persistent + self.idle

    @property
    def updating(self) -> int:
        """Bytes in the optimizer's step, when the activations are gone."""
        return self.steady + self.update


@dataclass(frozen=True)
class Weights:
    """Elements of every parameter, in the order of the model."""

    trained: tuple[int, ...]
    frozen: tuple[int, ...]
    buffers: int  # bytes, not elements

    @property
    def total(self) -> int:
        return sum(self.trained) + sum(self.frozen)


def weights(config: VATTConfig) -> Weights:
    """Counts the parameters without allocating them. Raises ValueError for a model that cannot be built."""
    with torch.device("meta"):
        return weights_of(VATT(config))


def weights_of(model: nn.Module) -> Weights:
    """Counts the parameters of a model, which may be without memory."""
    found = list(model.parameters())
    return Weights(
        tuple(p.numel() for p in found if p.requires_grad),
        tuple(p.numel() for p in found if not p.requires_grad),
        sum(buffer.numel() * buffer.element_size() for buffer in model.buffers()),
    )


def effective_stage(zero: int, dtype: torch.dtype, parts: int = 1) -> int:
    """The stage that runs: bfloat16 without ZeRO runs as stage 1, and in several parts of a batch stages 0 and 1 run as
    2 (see train/core/engine.py).

    Raises:
        ValueError: a stage that does not exist, or a type that is not trained in.
    """
    if zero not in STAGES:
        raise ValueError(f"zero: {zero} is not one of 0, 1, 2, 3")
    if dtype not in (torch.float32, torch.bfloat16):
        raise ValueError(f"dtype: expected float32 or bfloat16, got {dtype}")
    return max(zero, 1 if parts == 1 else 2) if dtype == torch.bfloat16 else zero


def state_bytes(
    config: VATTConfig, zero: int, ranks: int, dtype: torch.dtype, buckets: Buckets | None = None, parts: int = 1
) -> States:
    """Bytes of parameters, gradients, optimizer and buckets on one rank, the fullest one where ranks differ; of a batch
    in so many ``parts`` (engine.contrastive_parts), whose gradients are added up in fp32.

    Raises:
        ValueError: as `effective_stage`, or fewer than 1 rank.
    """
    return states_of(weights(config), zero, ranks, dtype, buckets, parts)


def states_of(
    count: Weights, zero: int, ranks: int, dtype: torch.dtype, buckets: Buckets | None = None, parts: int = 1
) -> States:
    """As `state_bytes`, of any model by the number of its parameters."""
    stage = effective_stage(zero, dtype, parts)
    if ranks < 1:
        raise ValueError(f"ranks: {ranks} must be 1 or more")
    s, sizes = dtype.itemsize, buckets or Buckets()
    if stage == 0:
        return _whole(count, s, sizes)
    found = _flat(count, ranks, s, sizes) if stage < 3 else _partitioned(count, ranks, s, sizes)
    if parts == 1 or stage == 1:
        return found
    # The sum of those before, in fp32: of stage 3 in place of the gradients of its share, of stage 2 beside them.
    own = found.master
    if stage == 2:
        return replace(found, gradients=found.gradients + own)
    return replace(found, gradients=own, idle=found.idle + own - found.gradients)


def _whole(count: Weights, s: int, sizes: Buckets) -> States:
    """Stage 0 in fp32: torch's own layout. The gradients are copied into a flat bucket to be reduced."""
    trained = sum(count.trained)
    flat = _in_bucket(trained, sizes) * s
    parameters = count.total * s + count.buffers
    return States(parameters, 0, 2 * trained * FP32, trained * s, trained * s, 0, 0, 0, flat, 0)


def _flat(count: Weights, ranks: int, s: int, sizes: Buckets) -> States:
    """Stages 1 and 2: one buffer of parameters, padded to a multiple of 2 * ranks elements.

    Each rank updates its part in fp32, in a copy of its own even if the parameters are fp32. The bucket has its full
    size however small the model is.
    """
    trained = sum(count.trained)
    padded = -(-trained // (2 * ranks)) * 2 * ranks
    part = padded // ranks
    return States(
        parameters=(padded + sum(count.frozen)) * s + count.buffers,
        master=part * FP32,
        moments=2 * part * FP32,
        gradients=_fullest(count.trained, part, ranks) * s,
        update=part * FP32,
        gathered=0,
        persistent=0,
        buckets=sizes.reduce_bucket_size * s,
        copies=_in_bucket(trained, sizes) * s if ranks > 1 else 0,
        idle=0,
    )


def _in_bucket(trained: int, sizes: Buckets) -> int:
    return min(trained, sizes.reduce_bucket_size)


def _fullest(sizes: tuple[int, ...], part: int, ranks: int) -> int:
    """Elements of gradients on the rank with the most: a rank keeps a gradient whole if it needs any part of it."""
    ends = list(accumulate(sizes))
    spans = list(zip(ends, sizes, strict=True))
    return max(
        sum(size for end, size in spans if end > rank * part and end - size < (rank + 1) * part)
        for rank in range(ranks)
    )


def _partitioned(count: Weights, ranks: int, s: int, sizes: Buckets) -> States:
    """Stage 3: every parameter is sharded by itself, padded to a multiple of ``ranks`` elements.

    Small parameters stay whole. Of the others, all that are read again within the reuse distance stay whole from the
    forward pass to the backward pass: with DeepSpeed's 1e9 elements, that is a whole model of less than half as many.
    So ``gathered`` is all parameters, an upper bound. One rank gathers nothing.
    """
    both = (*count.trained, *count.frozen)
    part = sum(-(-size // ranks) for size in count.trained)
    small = sum(size for size in both if size <= sizes.param_persistence_threshold)
    persistent, gathered = (0, 0) if ranks == 1 else (small * s, count.total * s)
    bucket = sizes.reduce_bucket_size * s
    return States(
        parameters=sum(-(-size // ranks) for size in both) * s + count.buffers,
        master=part * FP32,
        moments=2 * part * FP32,
        gradients=part * s,
        update=part * FP32,
        gathered=gathered,
        persistent=persistent,
        buckets=bucket,
        copies=_in_bucket(sum(count.trained), sizes) * s,
        idle=part * s + bucket,
    )
