"""A few steps of a very small model under the engine, on fixed batches: run by test_engine.py, one process a rank.

Writes the losses of each step as JSON, and the state as safetensors; can begin from such a state.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from train.config.sections import EngineConfig, OptimConfig
from train.core.engine import Engine
from train.core.ranks import start_distributed, stop_distributed, wait_for_all
from vatt.config import from_dict, override
from vatt.models.config import VATTConfig
from vatt.objectives.pretraining import Pretraining
from vatt.presets import preset

SMALL = {
    "video": ["d_model=16", "d_kv=8", "d_ff=32", "num_layers=1", "num_heads=2", "max_temporal_buckets=2"],
    "waveform": ["d_model=16", "d_kv=8", "d_ff=32", "num_layers=1", "num_heads=2", "max_temporal_buckets=8"],
    "text": ["d_model=16", "d_kv=8", "d_ff=32", "num_layers=1", "num_heads=2", "vocab_size=30", "d_embedding=12"],
    "unified": [
        *["d_model=16", "d_kv=8", "d_ff=32", "num_layers=1", "num_heads=2", "d_post_proj=16", "txt_vocab_size=30"],
        *["max_vid_temporal_buckets=2", "max_aud_temporal_buckets=8", "txt_embedding_dim=12"],
    ],
    "head": ["d_va=16", "d_vat=8"],
}
BATCH = 8


def small_model(name: str) -> VATTConfig:
    config = override(preset(name), [f"{part}.{item}" for part, items in SMALL.items() for item in items])
    if name == "vatt-tiny":  # a frozen table, as in the large models: ZeRO-3 shares it out, the optimizer has no part
        config.text.trainable_embeddings = False
    return config


def batch_of(step: int, poison: bool) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return {
        "video": torch.randint(0, 256, (BATCH, 8, 64, 64, 3), generator=generator, dtype=torch.uint8),
        "audio": torch.rand(BATCH, 4096, generator=generator) * (float("nan") if poison else 1.0),
        "text": torch.randint(1, 30, (BATCH, 2, 6), generator=generator),
        "audio_mask": torch.ones(BATCH),
        "text_mask": torch.ones(BATCH),
    }


def main(jobs: list[dict]) -> None:
    """The jobs one after the other: starting the processes costs more than what they do."""
    torch.set_num_threads(1)
    context = start_distributed()
    for job in jobs:
        run(job, context.rank, context.ranks, context.device)
    stop_distributed()


def run(job: dict, rank: int, ranks: int, device: torch.device) -> None:
    torch.manual_seed(0)
    module = Pretraining(small_model(job.get("model", "vatt-tiny")))
    module.vatt.activation_checkpointing = job["engine"].get("activation_checkpointing", False)
    optim = OptimConfig(lr=1e-2, clip_norm=job.get("clip", 0.0))
    engine = Engine(module, from_dict(EngineConfig, job["engine"]), optim, BATCH // ranks, device)
    if job.get("load"):
        engine.load(load_file(job["load"] + ".model"), load_file(job["load"] + ".optimizer"))
    log = []
    for step in range(job["first"], job["last"]):
        rows = slice(rank * BATCH // ranks, (rank + 1) * BATCH // ranks)
        poison = step == job.get("poison") and rank == ranks - 1
        batch = {key: value[rows] for key, value in batch_of(step, poison).items()}
        if job.get("poison_gradient") == step and rank == ranks - 1:
            parameter = next(p for p in module.parameters() if p.requires_grad)
            handle = parameter.register_hook(lambda g: g * float("inf"))
            result = engine.train_step(batch, lr=1e-2, seed=step)
            handle.remove()
        else:
            result = engine.train_step(batch, lr=1e-2, seed=step)
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
