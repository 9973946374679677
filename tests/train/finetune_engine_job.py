"""A few steps of a very small classifier under the engine, on fixed batches: run by test_finetune_ranks.py, one process
a rank.

Writes what each step said as JSON, and the state as safetensors; can begin from such a state.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from train.config.sections import EngineConfig, OptimConfig
from train.core.engine import Engine
from train.core.ranks import start_distributed, stop_distributed, wait_for_all
from vatt.clip import InputConfig
from vatt.config import from_dict
from vatt.models import build_classifier
from vatt.models.config import ClassifierConfig, VideoConfig
from vatt.objectives.finetuning import Finetuning, TargetConfig

BATCH, CLASSES = 8, 3
CLIP = 0.75  # the official norm; every gradient here is about ten times as long


def small_module(frozen: bool = False) -> Finetuning:
    """The same weights in every process. No dropout: what is random is not alike on 1 and 2 ranks."""
    torch.manual_seed(0)
    video = VideoConfig(d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, max_temporal_buckets=2)
    video.dropout_rate = video.position_dropout_rate = 0.0
    video.max_vertical_buckets = video.max_horizontal_buckets = 2
    video.random_patch_sampling = False
    config = ClassifierConfig("small", "video", InputConfig(8, size=32), video, num_classes=CLASSES, dropout=0.0)
    module = Finetuning(build_classifier(config), TargetConfig(smoothing=0.1))
    module.model.backbone.requires_grad_(not frozen)
    return module


def batch_of(step: int) -> dict[str, Tensor]:
    """x uint8 (8, 8, 32, 32, 3) and target float32 (8, 3)."""
    generator = torch.Generator().manual_seed(step)
    x = torch.randint(0, 256, (BATCH, 8, 32, 32, 3), generator=generator, dtype=torch.uint8)
    return {"x": x, "target": torch.eye(CLASSES)[torch.randint(0, CLASSES, (BATCH,), generator=generator)]}


def optim_of(kind: str) -> OptimConfig:
    return OptimConfig(kind=kind, lr=rate(kind, 0), clip_backbone=CLIP)


def rate(kind: str, step: int) -> float:
    """Changes from step to step, for it is part of the velocity."""
    return (0.01 if kind == "sgd" else 0.001) / (step + 1)


def main(jobs: list[dict]) -> None:
    """The jobs one after the other: starting the processes costs more than what they do."""
    torch.set_num_threads(1)
    context = start_distributed()
    for job in jobs:
        run(job, context.rank, context.ranks, context.device)
    stop_distributed()


def run(job: dict, rank: int, ranks: int, device: torch.device) -> None:
    kind = job.get("kind", "sgd")
    module = small_module(job.get("frozen", False))
    engine = Engine(module, from_dict(EngineConfig, job["engine"]), optim_of(kind), BATCH // ranks, device)
    if job.get("load"):
        engine.load(load_file(job["load"] + ".model"), load_file(job["load"] + ".optimizer"))
    log = []
    for step in range(job.get("first", 0), job.get("last", 4)):
        batch = {
            key: value[rank * BATCH // ranks : (rank + 1) * BATCH // ranks] for key, value in batch_of(step).items()
        }
        handles = []
        if step == job.get("poison") and rank == ranks - 1:  # a gradient of the backbone alone, on one rank
            handles = [module.model.backbone.encoder.layers[0].mlp.in_weight.register_hook(lambda g: g * float("inf"))]
        result = engine.train_step(batch, rate(kind, step), seed=step)
        for handle in handles:
            handle.remove()
        log.append({"loss": result.losses["loss"], "applied": result.applied})
    model, optimizer = engine.model_state(), engine.optimizer_state()
    if rank == 0:
        Path(job["out"]).write_text(json.dumps(log))
        save_file(model, job["out"] + ".model")
        save_file(optimizer, job["out"] + ".optimizer")
    engine.close()
    wait_for_all()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
