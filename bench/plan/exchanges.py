"""What the ranks of a step exchange, by ZeRO stage, as DeepSpeed 0.19.8 and vatt/distributed.py do it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from bench.plan.links import ONCE, TWICE, Links
from bench.plan.zero import Buckets, Weights, effective_stage
from vatt.analysis.memory import activation_bytes
from vatt.models.config import VATTConfig


@dataclass(frozen=True)
class Exchange:
    """A collective, or several alike: bytes of the whole result, times it crosses the ring, number of messages."""

    name: str
    volume: int
    passes: int
    messages: int = 1

    def seconds(self, links: Links) -> float:
        return links.seconds(self.volume, self.passes, self.messages)


def of_states(count: Weights, zero: int, dtype: torch.dtype, sizes: Buckets) -> list[Exchange]:
    """Gradients and parameters. Stages 1 and 2 all-reduce, although each rank needs a part only: DeepSpeed's
    use_multi_rank_bucket_allreduce. Stage 3 gathers once a step where the parameters stay whole until the backward
    pass (see `bench.plan.zero`), else twice.

    Raises:
        ValueError: as `effective_stage`.
    """
    stage, s, trained = effective_stage(zero, dtype), dtype.itemsize, sum(count.trained)
    flushes = -(-trained // sizes.reduce_bucket_size)
    if stage < 3:
        found = [Exchange("gradients, all-reduce", trained * s, TWICE, flushes)]
        return found if stage == 0 else [*found, Exchange("parameters, all-gather", trained * s, ONCE)]
    stay = 2 * count.total <= sizes.max_reuse_distance
    gathers = 1 if stay else 2
    messages = gathers * -(-count.total // sizes.prefetch_bucket_size)
    return [
        Exchange("parameters, all-gather", gathers * count.total * s, ONCE, messages),
        Exchange("gradients, reduce-scatter", trained * s, ONCE, flushes),
    ]


def of_the_loss(config: VATTConfig, batch: int, ranks: int) -> list[Exchange]:
    """Embeddings of all ranks: gathered, and their gradients all-reduced (gloo has no reduce-scatter). Batch norms over
    all ranks: sums and squares, and in the backward pass the gradients of both."""
    dtype = torch.float32  # of the embeddings in the loss, whatever the model computes in
    gathered = activation_bytes(config, dtype, batch, ranks=ranks).gathered
    modalities = 2 * sum(weight > 0 for weight in _weights(config))
    found = [
        Exchange("embeddings, all-gather", gathered, ONCE, modalities),
        Exchange("their gradients, all-reduce", gathered, TWICE, modalities),
    ]
    if not config.head.sync_bn:
        return found
    widths = [config.head.d_va] * 3 if config.head.kind == "joint" else [config.head.d_va] * 2 + [config.head.d_vat]
    values = sum(2 * (2 * width + 1) for width in widths)
    return [*found, Exchange("batch norms, all-reduce", 4 * values, TWICE, 4 * len(widths))]


def _weights(config: VATTConfig) -> tuple[float, float, float]:
    return config.loss.vid_txt_weight, config.loss.vid_aud_weight, config.loss.aud_txt_weight
