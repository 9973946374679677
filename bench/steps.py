"""Whole training steps as subjects: ours with each kernel backend, and complete models that others would write."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bench.baselines.models import models
from bench.cases.base import Cost
from bench.jobs.case import config_of, dtype_of, random_batch
from bench.jobs.options import DROPS
from bench.measure.session import BOTH, FORWARD, STEP, Prepared, Subject
from bench.measure.timing import synchronize
from vatt.analysis.flops import train_flops_per_sample
from vatt.models.transformer import Encoder
from vatt.objectives.pretraining import Pretraining

# Preset and clips of a batch. The first GPU sizes are those of 64 clips a GPU, 32 GPUs: the paper's batch of 2048.
STEPS: dict[str, tuple[tuple[str, int], ...]] = {
    "tiny": (("vatt-tiny", 2),),
    "cpu": (("vatt-tiny", 8), ("vatt-ma-tiny", 8)),
    "gpu": (("vatt-base", 64), ("vatt-medium", 32), ("vatt-ma-medium", 32), ("vatt-large", 16)),
}
_COMPILED = "ours torch.compile"


class Step(Subject):
    """One preset at one batch, with DropToken and dropout as configured."""

    heavy = frozenset({_COMPILED})

    def __init__(self, model: str, batch: int, size: str, device: torch.device, kernels: bool) -> None:
        self.config, self.batch, self.device = config_of(model, DROPS[0], size == "tiny"), batch, device
        # Of a tiny model only the tracing is exercised: the C++ compiler would take a minute.
        self.compiler = "aot_eager" if size == "tiny" else "inductor"
        self.dtype = dtype_of(device)
        spec, unified = self.config.input, self.config.backbone == "unified"
        words = f"batch {batch}, {spec.frames} x {spec.size} x {spec.size} pixels, {spec.samples} samples, "
        words += f"{spec.candidates} x {spec.words} words"
        rate = (self.config.unified if unified else self.config.video).dropout_rate
        self.about = dict(suite="steps", op="step", case=f"{model} b{batch}", shape=words)
        self.about |= dict(dtype=str(self.dtype).removeprefix("torch."), dropout=rate)
        self.select = f"--step {model}:{batch}"
        self.ours = "ours triton" if kernels else "ours auto"
        self.providers = (self.ours, "ours torch", *models(self.config), _COMPILED)

    def prepare(self, provider: str) -> Prepared:
        began = time.perf_counter()
        torch.manual_seed(0)
        inputs = random_batch(self.config, self.batch, self.device)
        module = self._module(provider).to(self.device, self.dtype).train()
        loss = _loss(module, inputs, provider.startswith("ours"))
        parameters = [p for p in module.parameters() if p.requires_grad]
        adam = torch.optim.AdamW(parameters, lr=1e-4, fused=self.device.type == "cuda")

        # Gradients are freed at the end, so that they count into the memory of the next call.
        def both() -> None:
            loss().backward()
            adam.zero_grad()

        def step() -> None:
            loss().backward()
            adam.step()
            adam.zero_grad()

        def refresh() -> None:
            for x in inputs.values():
                x.copy_(x.flip(0, 1))

        calls: dict[str, Callable[[], Any]] = {FORWARD: loss, BOTH: both, STEP: step}
        for _ in range(2 if provider in self.heavy else 1):
            step()
        synchronize(self.device)
        work = train_flops_per_sample(self.config) * self.batch
        costs = {mode: Cost(work / 3 if mode == FORWARD else work, 0.0) for mode in calls}
        return Prepared(calls, costs, refresh, time.perf_counter() - began, samples=self.batch)

    def _module(self, provider: str) -> nn.Module:
        if not provider.startswith("ours"):
            return models(self.config)[provider]()
        if provider != _COMPILED:
            return Pretraining(self.config, provider.removeprefix("ours "))
        module = Pretraining(self.config, "torch")
        for part in module.modules():
            if isinstance(part, Encoder):  # around them DropToken draws from a new generator at each call
                part.compile(backend=self.compiler, dynamic=False)
        return module

    def release(self) -> None:
        torch._dynamo.reset()


def _loss(module: nn.Module, inputs: dict[str, Tensor], ours: bool) -> Callable[[], Tensor]:
    if not ours:
        return lambda: module(inputs["video"], inputs["audio"], inputs["text"])
    seeds = iter(range(1 << 30))  # DropToken keeps other tokens at each call
    return lambda: module(inputs, next(seeds))["loss"]


def step_subjects(
    size: str, device: torch.device, kernels: bool, steps: Sequence[tuple[str, int]] | None = None
) -> list[Subject]:
    """``steps``: presets and clips of a batch; default: those of the size."""
    return [Step(model, batch, size, device, kernels) for model, batch in steps or STEPS[size]]
