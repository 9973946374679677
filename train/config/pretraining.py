"""The configuration of a pretraining run (everything that the command line, a file or an override can set), and the
named recipes: ``--config paper`` or ``--config sample``."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated

from train.config.sections import EngineConfig, OptimConfig, RunConfig, sample_augment
from vatt.config import ConfigError, Count, Range, Section, nearest
from vatt.data.config import DataConfig
from vatt.distributed import ranks_here
from vatt.models.config import VATTConfig
from vatt.presets import preset
from vatt.sample.scene import SETS

Windows = Annotated[int, Range(1, 1000)]


@dataclass
class EvalConfig(Section):
    """Zero-shot retrieval on the held-out clips."""

    windows: Windows = 4  # clips of a video, spread evenly; their embeddings are averaged (the paper's protocol)
    batch_size: Annotated[int, Range(1, 1_000_000)] = 32  # clips, each with all of its windows
    max_clips: Count = 1000  # evenly spread over the held-out ones


@dataclass
class PretrainConfig(Section):
    """A whole run."""

    model: VATTConfig = field(default_factory=VATTConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    run: RunConfig = field(default_factory=RunConfig)
    evaluation: EvalConfig = field(default_factory=EvalConfig)


def paper() -> PretrainConfig:
    """The paper's pretraining (section 4.1) with the official code's schedule: 500k steps of 2048 clips.

    DropToken 0.5 and temperature 0.07 are defaults of the models. The paper's own schedule, which the official code
    does not have, is optim.schedule=quarter_cosine optim.warmup_steps=10000.
    """
    model = preset("vatt-base")
    model.input.audio_level = "as_is"
    return PretrainConfig(model=model)


def sample() -> PretrainConfig:
    """A short run on the built-in sample. Its held-out clips are 4 s long: one window covers them."""
    return PretrainConfig(
        model=preset("vatt-tiny"),
        data=DataConfig(workers=1, augment=sample_augment()),
        optim=OptimConfig(lr=3e-3, final_lr=3e-5, warmup_steps=30),
        run=RunConfig(steps=260, batch_size=32, log_every=20, eval_every=130, save_every=130, keep=2),
        evaluation=EvalConfig(windows=1),
    )


def sample_gpu() -> PretrainConfig:
    """The sample on a GPU: vatt-base at full input size, in bf16. It learns its words, having no word2vec table."""
    config = sample()
    model = preset("vatt-base")
    model.text.trainable_embeddings, model.text.embedding_reach = True, 2.0
    config.model = model
    config.data.workers = max(2, min(12, (os.cpu_count() or 4) // ranks_here() - 2))
    config.optim = OptimConfig(lr=2e-4, final_lr=2e-6, warmup_steps=100, clip_norm=1.0)
    config.run = RunConfig(steps=600, batch_size=64, log_every=20, eval_every=200, save_every=200, keep=2)
    return config


def sample_large() -> PretrainConfig:
    """The large sample (`vatt.sample.scene.SETS`), to learn the shape from: some ten minutes on one GPU and 16 cores,
    which decode. All tokens of the video are kept: a thing covers but a few of those of a frame."""
    config = sample()
    config.model = preset("vatt-small")
    config.model.video.random_patch_sampling = False
    config.data.sources = [f"{SETS['large'].folder}/manifest.csv"]
    config.data.workers = max(1, min(14, (os.cpu_count() or 4) // ranks_here() - 2))
    config.optim = OptimConfig(lr=1e-3, final_lr=1e-5, warmup_steps=100, clip_norm=1.0)
    config.run = RunConfig(steps=2000, batch_size=256, log_every=20, eval_every=500, save_every=500, keep=2)
    return config


AUTO = "auto"  # chosen by data and machine, see train/pretraining/auto.py
RECIPES: dict[str, Callable[[], PretrainConfig]] = {
    "paper": paper,
    "sample": sample,
    "sample-gpu": sample_gpu,
    "sample-large": sample_large,
}


def recipe(name: str) -> PretrainConfig:
    """A fresh configuration of that name. Raises ConfigError for an unknown one, with the nearest name."""
    if name not in RECIPES:
        raise ConfigError(
            f"unknown configuration {name!r}; {nearest(name, [AUTO, *RECIPES])}, or a path to a .json or .toml"
        )
    return RECIPES[name]()
