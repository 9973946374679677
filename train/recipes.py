"""Named configurations: ``--config paper`` or ``--config sample``."""

from __future__ import annotations

import os
from collections.abc import Callable

from train.config import EvalConfig, OptimConfig, PretrainConfig, RunConfig
from vatt.config import ConfigError, nearest
from vatt.data.config import AugmentConfig, DataConfig
from vatt.presets import preset


def paper() -> PretrainConfig:
    """The paper's pretraining (section 4.1) with the official code's schedule: 500k steps of 2048 clips.

    DropToken 0.5 and temperature 0.07 are defaults of the models. The paper's own schedule, which the official code
    does not have, is optim.schedule=quarter_cosine optim.warmup_steps=10000.
    """
    return PretrainConfig(model=preset("vatt-base"))


def sample() -> PretrainConfig:
    """A short run on the built-in sample.

    The captions of the sample name colours, so hue is not turned; and its things are a third of the picture wide, so a
    crop keeps most of it. The held-out clips are 4 s long: one window covers them.
    """
    return PretrainConfig(
        model=preset("vatt-tiny"),
        data=DataConfig(
            workers=1,
            augment=AugmentConfig(
                area_min=0.7, aspect_min=0.9, aspect_max=1.1, hue=0.0, saturation=0.2, contrast=0.2, brightness=0.1
            ),
        ),
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
    config.data.workers = max(2, min(12, (os.cpu_count() or 4) - 2))
    config.optim = OptimConfig(lr=2e-4, final_lr=2e-6, warmup_steps=100, clip_norm=1.0)
    config.run = RunConfig(steps=600, batch_size=64, log_every=20, eval_every=200, save_every=200, keep=2)
    return config


RECIPES: dict[str, Callable[[], PretrainConfig]] = {"paper": paper, "sample": sample, "sample-gpu": sample_gpu}


def recipe(name: str) -> PretrainConfig:
    """A fresh configuration of that name. Raises ConfigError for an unknown one, with the nearest name."""
    if name not in RECIPES:
        raise ConfigError(f"unknown configuration {name!r}; {nearest(name, RECIPES)}, or a path to a .json or .toml")
    return RECIPES[name]()
