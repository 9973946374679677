"""What a prediction is asked for, and where each of its numbers comes from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from bench.plan.links import Links

ASSUMED, DATA_SHEET, CONFIGURATION = "assumed", "data sheet", "configuration"
TYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True)
class Source:
    """A number that the prediction rests on, in words; its source: measured, data sheet, given by a flag, assumed."""

    what: str
    value: str
    source: str


@dataclass(frozen=True)
class Request:
    """A run to predict. Rates in GB/s (10^9 bytes) that one GPU sends in one direction; memory in GiB of one GPU.

    ``given``: the names of the fields that the user set; the others are assumptions.
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
    gpu: str = "H100 SXM"
    mfu: float = 0.35
    results: Path | None = None
    memory_gib: float = 80.0
    reserve_gib: float = 2.0
    dtype: str = "bf16"
    kernels: str = "triton"
    given: frozenset[str] = frozenset()

    @property
    def local_batch(self) -> int:
        return self.batch // self.gpus

    @property
    def per_node(self) -> int:
        return min(self.gpus, self.gpus_per_node)

    @property
    def type(self) -> torch.dtype:
        return TYPES[self.dtype]

    def links(self) -> Links:
        rates = 1e9 * self.intra_gbps, 1e9 * self.inter_gbps
        return Links(self.gpus, self.per_node, *rates, 1e-6 * self.latency_us)

    def source(self, field: str, what: str, value: str, otherwise: str = ASSUMED) -> Source:
        """As given by its flag, or from elsewhere."""
        flag = "--" + field.replace("_", "-")
        return Source(what, value, f"given by {flag}" if field in self.given else f"{otherwise}; change it by {flag}")
