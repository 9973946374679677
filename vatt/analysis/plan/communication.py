"""What the ranks exchange in a step, as DeepSpeed 0.19.8 and vatt/distributed.py do it, and how long it takes.

A collective of V bytes on n ranks sends (n - 1) / n V from each rank where it gathers or scatters (ring), twice that
where it reduces for all. On two levels of links, the g ranks of a node first exchange among themselves; then each of
them exchanges its V / g with the ranks of the other nodes that hold the same part. The two times are added, as if they
never overlapped.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from vatt.analysis.memory import activation_bytes
from vatt.analysis.plan.zero import Buckets, Weights, effective_stage
from vatt.models import VATT
from vatt.models.config import VATTConfig
from vatt.models.mmv.layers import ConvBatchNorm

ONCE, TWICE = 1, 2  # passes of the ring: all-gather or reduce-scatter; all-reduce


@dataclass(frozen=True)
class Links:
    """The ranks and their links.

    ``intra`` and ``inter``: bytes per second that one rank sends in one direction, within its node and to other nodes;
    ``latency``: seconds to start a collective.
    """

    ranks: int
    per_node: int
    intra: float
    inter: float
    latency: float

    @property
    def nodes(self) -> int:
        """Number of nodes."""
        return self.ranks // self.per_node

    def sent(self, volume: float, passes: int) -> tuple[float, float]:
        """Bytes that each rank sends within its node and to other nodes."""
        g, nodes = self.per_node, self.nodes
        return passes * (g - 1) / g * volume, passes * (nodes - 1) / nodes * volume / g

    def seconds(self, volume: float, passes: int, messages: int = 1) -> float:
        """Time of a collective of ``volume`` bytes, split into ``messages``; 0 with one rank."""
        if self.ranks == 1:
            return 0.0
        intra, inter = self.sent(volume, passes)
        return intra / self.intra + inter / self.inter + messages * self.latency


@dataclass(frozen=True)
class Collective:
    """One or several collectives of a kind: bytes of the whole result, passes of the ring, number of messages."""

    name: str
    volume: int
    passes: int
    messages: int = 1

    def seconds(self, links: Links) -> float:
        return links.seconds(self.volume, self.passes, self.messages)


def state_collectives(
    count: Weights, zero: int, dtype: torch.dtype, sizes: Buckets, parts: int = 1
) -> list[Collective]:
    """Gradients and parameters, of a step whose batch is in so many ``parts``: stages 2 and 3 send the gradients of
    each, and stage 3 gathers for each pass, of which all parts but one have two in front of a backward pass.

    Stages 1 and 2 all-reduce, although each rank needs only a part: DeepSpeed's use_multi_rank_bucket_allreduce. Stage
    3 gathers once per step if the parameters stay whole until the backward pass (see `vatt.analysis.plan.zero`), else
    twice.

    Raises:
        ValueError: as `effective_stage`.
    """
    stage, s, trained = effective_stage(zero, dtype, parts), dtype.itemsize, sum(count.trained)
    times = parts if stage > 1 else 1
    flushes = times * -(-trained // sizes.reduce_bucket_size)
    if stage < 3:
        found = [Collective("gradients, all-reduce", times * trained * s, TWICE, flushes)]
        return found if stage == 0 else [*found, Collective("parameters, all-gather", trained * s, ONCE)]
    stay = 2 * count.total <= sizes.max_reuse_distance
    gathers = (1 if stay else 2) * parts + parts - 1
    messages = gathers * -(-count.total // sizes.prefetch_bucket_size)
    return [
        Collective("parameters, all-gather", gathers * count.total * s, ONCE, messages),
        Collective("gradients, reduce-scatter", times * trained * s, ONCE, flushes),
    ]


def loss_collectives(config: VATTConfig, batch: int, ranks: int) -> list[Collective]:
    """Embeddings and batch norm statistics, for ``batch`` samples per rank.

    The embeddings of all ranks are gathered and their gradients all-reduced (gloo has no reduce-scatter). Batch norms
    all-reduce sums and squares, and in the backward pass the gradients of both.
    """
    dtype = torch.float32  # of the embeddings in the loss, whatever the model computes in
    gathered = activation_bytes(config, dtype, batch, ranks=ranks).gathered
    weights = config.loss.vid_txt_weight, config.loss.vid_aud_weight, config.loss.aud_txt_weight
    messages = 2 * sum(weight > 0 for weight in weights)
    found = [
        Collective("embeddings, all-gather", gathered, ONCE, messages),
        Collective("their gradients, all-reduce", gathered, TWICE, messages),
    ]
    found += _backbone_norms(config, ranks)
    if not config.head.sync_bn:
        return found
    widths = [config.head.d_va] * 3 if config.head.kind == "joint" else [config.head.d_va] * 2 + [config.head.d_vat]
    values = sum(2 * (2 * width + 1) for width in widths)
    return [*found, Collective("batch norms, all-reduce", 4 * values, TWICE, 4 * len(widths))]


def _backbone_norms(config: VATTConfig, ranks: int) -> list[Collective]:
    """Of convolutional networks: means, variances and counts are gathered, and two sums of gradients all-reduced."""
    if config.backbone != "convolutional":
        return []
    with torch.device("meta"):
        norms = [part for part in VATT(config).modules() if isinstance(part, ConvBatchNorm) and part.sync]
    channels = sum(len(norm.weight) for norm in norms)
    return [
        Collective("norms of backbones, all-gather", ranks * 4 * (2 * channels + len(norms)), ONCE, len(norms)),
        Collective("norms of backbones, all-reduce", 4 * 2 * channels, TWICE, len(norms)),
    ]
