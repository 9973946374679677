"""The configuration of a fine-tuning run (everything that the command line, a file or an override can set), and the
named recipes: the paper's, and a short one on the built-in sample. ``--config auto`` is `train.finetuning.auto`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

from train.config.sections import EngineConfig, OptimConfig, RunConfig, sample_augment
from vatt.clip import InputConfig
from vatt.config import ConfigError, CountOrNone, Range, Section, nearest
from vatt.data.config import DataConfig
from vatt.models.config import ClassifierConfig
from vatt.objectives.finetuning import TargetConfig
from vatt.presets import classifier_preset, preset

Task = Literal["video", "audio", "image"]

# The column of the built-in sample that a task learns or evaluates.
SAMPLE_LABELS: dict[str, str] = {"video": "motion", "audio": "shape", "image": "shape"}


@dataclass
class ViewsConfig(Section):
    """The windows and crops of held-out clips, whose logits are averaged. Sound has no crops."""

    clips: Annotated[int, Range(1, 1000)] = 4  # windows, spread evenly over the clip
    crops: Annotated[int, Range(1, 100)] = 3  # squares of each window, along its longer side
    batch_size: Annotated[int, Range(1, 1_000_000)] = 8  # clips, each with all of its views
    max_clips: CountOrNone = 0  # evenly spread over the held-out ones; 0: all


@dataclass
class FinetuneConfig(Section):
    """A whole run."""

    task: Task = "video"  # what is classified
    init: str | None = None  # folder of the pretrained model; None: from scratch
    label: str = "label"  # column of the manifest
    classes: str | None = None  # text file, one class per line; None: those of the training clips, in order
    freeze_backbone: bool = False  # train the classification layer alone
    model: ClassifierConfig = field(default_factory=ClassifierConfig)
    targets: TargetConfig = field(default_factory=TargetConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    run: RunConfig = field(default_factory=RunConfig)
    evaluation: ViewsConfig = field(default_factory=ViewsConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.engine.contrastive_parts != 1:
            raise ValueError("engine.contrastive_parts: is for a contrastive loss; take engine.gradient_accumulation")


CLIP_BACKBONE = 0.75  # global norm of the backbone's gradient; in the official code, not in the paper


def _sgd(lr: float, warmup_steps: int) -> OptimConfig:
    """Momentum 0.9, the rate in a half period of a cosine to 0."""
    return OptimConfig(kind="sgd", schedule="cosine", lr=lr, warmup_steps=warmup_steps, clip_backbone=CLIP_BACKBONE)


def kinetics() -> FinetuneConfig:
    """Kinetics-400, -600, -700 (section 4.2): 2.56 s of 320 x 320 pixels, no DropToken, 12 views."""
    return FinetuneConfig(
        task="video",
        model=classifier_preset("vit-base"),
        targets=TargetConfig(smoothing=0.1),
        optim=_sgd(0.005, 2500),
        run=RunConfig(steps=100_000, batch_size=64, eval_every=10_000, save_every=5000),
    )


def audioset() -> FinetuneConfig:
    """AudioSet (section 4.2): 6.4 s at 24 kHz, several labels per clip, mixup, samples weighted by rarity."""
    model = classifier_preset("wat-base")
    return FinetuneConfig(
        task="audio",
        model=model,
        targets=TargetConfig(mixup=5.0),
        optim=_sgd(0.2, 5000),
        run=RunConfig(steps=50_000, batch_size=1024, eval_every=5000, save_every=2500),
        evaluation=ViewsConfig(clips=4, crops=1),
    )


def imagenet() -> FinetuneConfig:
    """ImageNet (section 4.2): the picture four times in a row, 384 x 384, 50 epochs of 1,281,167 pictures."""
    model = classifier_preset("vit-base")
    model.name, model.num_classes = "vit-base-image", 1000
    model.input = InputConfig(frames=4, fps=12.5, size=384)
    return FinetuneConfig(
        task="image",
        model=model,
        targets=TargetConfig(smoothing=0.1),
        optim=_sgd(0.08, 0),
        run=RunConfig(steps=50 * 1_281_167 // 512, batch_size=512, eval_every=10_000, save_every=5000),
        evaluation=ViewsConfig(clips=1, crops=1, batch_size=32),
    )


def sample(task: Task = "video") -> FinetuneConfig:
    """Two minutes on the built-in sample with the tiny model, by Adam: so short a run is too short for SGD."""
    model = classifier_preset("wat-base" if task == "audio" else "vit-base")
    tiny = preset("vatt-tiny")
    model.name, model.dropout, model.labels = f"{task}-tiny", 0.1, "single"
    model.input, model.video, model.waveform = tiny.input, tiny.video, tiny.waveform
    for section in (model.video, model.waveform):
        section.random_patch_sampling = False
    if task == "image":
        model.input = replace(model.input, frames=4)
    return FinetuneConfig(
        task=task,
        label=SAMPLE_LABELS[task],
        model=model,
        data=DataConfig(workers=1, augment=sample_augment()),
        optim=OptimConfig(schedule="cosine", lr=1e-3, warmup_steps=30, clip_backbone=CLIP_BACKBONE),
        run=RunConfig(steps=200, batch_size=32, log_every=20, eval_every=0, save_every=0, keep=1),
        evaluation=ViewsConfig(clips=1, crops=1, batch_size=32),
    )


PAPER: dict[Task, str] = {"video": "kinetics", "audio": "audioset", "image": "imagenet"}
RECIPES: dict[str, Callable[[], FinetuneConfig]] = {
    "kinetics": kinetics,
    "moments": kinetics,  # Moments in Time: the same recipe
    "audioset": audioset,
    "imagenet": imagenet,
}
AUTO = "auto"  # chosen by model, clips and machine, see train/finetuning/auto.py
NAMES = ("paper", *RECIPES, "sample")


def recipe(name: str, task: Task) -> FinetuneConfig:
    """A fresh configuration of that name; "paper" is the paper's of the task.

    Raises:
        ConfigError: an unknown name, with the nearest one, or a recipe of another task.
    """
    if name == "sample":
        return sample(task)
    if name not in NAMES:
        hint = nearest(name, (AUTO, *NAMES))
        raise ConfigError(f"unknown configuration {name!r}; {hint}, or a path to a .json or .toml")
    made = RECIPES[PAPER[task] if name == "paper" else name]()
    if made.task != task:
        raise ConfigError(f"--config {name}: is a recipe of --task {made.task}, not {task}")
    return made
