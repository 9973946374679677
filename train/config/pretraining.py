"""The configuration of a pretraining run: everything that the command line, a file or an override can set."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from vatt.config import ConfigError, nearest
from vatt.data.config import AugmentConfig, DataConfig
from vatt.models.config import VATTConfig
from vatt.presets import preset

# Named configurations: ``--config paper`` or ``--config sample``.


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


@dataclass
class OptimConfig:
    """Adam or SGD as in the official code (Adam's epsilon is not bias-corrected) and the learning rate over the steps.

    The first two schedules are of pretraining: the official code's, and the paper's; "cosine" ends at 0.
    """

    kind: Literal["adam", "sgd"] = "adam"
    schedule: Literal["step_cosine", "quarter_cosine", "cosine"] = "step_cosine"
    lr: float = 1e-4  # after warm-up
    final_lr: float = 5e-5  # at the last step; not of "cosine"
    warmup_steps: int = 5000
    momentum: float = 0.9  # of SGD
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-7
    weight_decay: float = 0.0
    clip_norm: float = 0.0  # of the whole gradient; 0 does not clip, as the official pretraining
    clip_backbone: float = 0.0  # of the gradient without that of the classification layer; 0 does not clip

    def __post_init__(self) -> None:
        if self.lr <= 0 or min(self.final_lr, self.warmup_steps, self.clip_norm, self.clip_backbone) < 0:
            raise ValueError("lr must be above 0; final_lr, warmup_steps, clip_norm, clip_backbone not negative")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum: {self.momentum} must be in [0, 1)")
        if self.clip_norm and self.clip_backbone:
            raise ValueError("clip_norm, clip_backbone: only one of the two may be above 0")


@dataclass
class EngineConfig:
    """How the work is spread over devices; turned into a DeepSpeed configuration."""

    zero: int = 0  # ZeRO stage: 0 none, 1 optimizer states, 2 and gradients, 3 and parameters; bf16: 0 runs as 1
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: bf16 on a GPU, fp32 on a CPU
    offload_optimizer: bool = False  # optimizer states in CPU memory (zero 1 to 3)
    activation_checkpointing: bool = False
    gradient_accumulation: int = 1  # negatives come from one part at a time
    kernels: str = "auto"  # backend of all operations: auto, triton, or torch for the plain-PyTorch references
    deepspeed: str | None = None  # path of a DeepSpeed JSON whose entries go over the generated ones

    def __post_init__(self) -> None:
        if self.zero not in (0, 1, 2, 3):
            raise ValueError(f"zero: {self.zero} is not one of 0, 1, 2, 3")
        if self.gradient_accumulation < 1:
            raise ValueError(f"gradient_accumulation: {self.gradient_accumulation} must be 1 or more")
        if self.offload_optimizer and self.zero == 0:
            raise ValueError("offload_optimizer: needs zero 1, 2 or 3")


@dataclass
class RunConfig:
    """Length, pace and safety of the run."""

    steps: int = 500_000
    batch_size: int = 2048  # over all ranks
    seed: int = 0
    log_every: int = 50
    eval_every: int = 10_000  # 0: at the end alone
    save_every: int = 10_000  # 0: at the end alone
    keep: int = 3  # checkpoints
    max_skipped_steps: int = 10  # steps in a row with a loss or gradient that is not finite

    def __post_init__(self) -> None:
        if min(self.steps, self.batch_size, self.log_every, self.keep, self.max_skipped_steps) < 1:
            raise ValueError("steps, batch_size, log_every, keep and max_skipped_steps must be 1 or more")
        if min(self.eval_every, self.save_every, self.seed) < 0:
            raise ValueError("eval_every, save_every and seed must not be negative")


@dataclass
class EvalConfig:
    """Zero-shot retrieval on the held-out clips."""

    windows: int = 4  # clips of a video, spread evenly; their embeddings are averaged (the paper's protocol)
    batch_size: int = 32
    max_clips: int = 1000  # evenly spread over the held-out ones

    def __post_init__(self) -> None:
        if min(self.windows, self.batch_size, self.max_clips) < 1:
            raise ValueError("windows, batch_size and max_clips must be 1 or more")


@dataclass
class PretrainConfig:
    """A whole run."""

    model: VATTConfig = field(default_factory=VATTConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    run: RunConfig = field(default_factory=RunConfig)
    evaluation: EvalConfig = field(default_factory=EvalConfig)
