"""What a plan is asked for, and where each of its numbers comes from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from vatt.analysis.plan.communication import Links

ASSUMED, DATA_SHEET, CONFIGURATION = "assumed", "data sheet", "configuration"
TYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True)
class Assumption:
    """A number that the plan rests on, in words, and its source: measured, data sheet, given by a flag, assumed."""

    what: str
    value: str
    source: str


@dataclass(frozen=True)
class Request:
    """A pretraining run to plan.

    ``*_gbps``: GB/s (10^9 bytes) that one GPU sends in one direction; ``*_gib``: GiB of one GPU; ``batch``: samples of
    a step on all GPUs, which each takes in ``contrastive_parts``; ``mfu``: share of the GPU's peak that the computation
    reaches; ``results``: CSV of measured rates; ``given``: names of the fields that the user set, all others are
    assumptions.

    Of the clips: ``clips_per_core``: how many a core decodes in a second; ``augment_on``: "gpu" leaves it the decoding
    alone; ``storage_mbps``: MB/s (10^6 bytes) that a node reads; ``clip_mb``: MB read for a clip; ``data``: a folder of
    shards, whose index tells that; ``decoding``: CSV of measured clips a second.
    """

    model: str
    gpus: int
    batch: int
    zero: int = 0
    gpus_per_node: int = 8
    intra_gbps: float = 450.0
    inter_gbps: float = 50.0
    latency_us: float = 20.0
    steps: int = 500_000
    checkpointing: bool = False
    contrastive_parts: int = 1
    gpu: str = "H100 SXM"
    mfu: float = 0.35
    results: Path | None = None
    memory_gib: float = 80.0
    reserve_gib: float = 2.0
    dtype: str = "bf16"
    kernels: str = "auto"
    clips_per_core: float | None = None
    cores_per_gpu: float = 16.0
    augment_on: str = "gpu"
    storage_mbps: float | None = None
    clip_mb: float | None = None
    data: Path | None = None
    decoding: Path | None = None
    given: frozenset[str] = frozenset()

    @property
    def local_batch(self) -> int:
        """Samples of a step on one GPU."""
        return self.batch // self.gpus

    @property
    def part(self) -> int:
        """Samples that pass the backbones of a GPU at once."""
        return self.local_batch // self.contrastive_parts

    @property
    def per_node(self) -> int:
        """GPUs of a node that take part."""
        return min(self.gpus, self.gpus_per_node)

    @property
    def type(self) -> torch.dtype:
        """The type that is trained in."""
        return TYPES[self.dtype]

    def links(self) -> Links:
        """The ranks and their links, in bytes and seconds."""
        rates = 1e9 * self.intra_gbps, 1e9 * self.inter_gbps
        return Links(self.gpus, self.per_node, *rates, 1e-6 * self.latency_us)

    def assumption(self, field: str, what: str, value: str, otherwise: str = ASSUMED) -> Assumption:
        """The value of ``field`` in words: given by its flag, or taken from ``otherwise``."""
        flag = "--" + field.replace("_", "-")
        source = f"given by {flag}" if field in self.given else f"{otherwise}; change it by {flag}"
        return Assumption(what, value, source)
