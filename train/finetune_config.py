"""The configuration of a fine-tuning run: everything that the command line, a file or an override can set."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from train.config import EngineConfig, OptimConfig, RunConfig
from vatt.data.config import DataConfig
from vatt.models.config import ClassifierConfig
from vatt.models.finetuning import TargetConfig

Task = Literal["video", "audio", "image"]


@dataclass
class ViewsConfig:
    """How held-out clips are looked at; their logits are averaged. Sound has no crops."""

    clips: int = 4
    crops: int = 3
    batch_size: int = 8  # clips, each with all of its views
    max_clips: int = 0  # evenly spread over the held-out ones; 0: all

    def __post_init__(self) -> None:
        if min(self.clips, self.crops, self.batch_size) < 1 or self.max_clips < 0:
            raise ValueError("clips, crops and batch_size must be 1 or more, and max_clips 0 or more")


@dataclass
class FinetuneConfig:
    """A whole run."""

    task: Task = "video"
    init: str | None = None  # folder of the pretrained model; None: from scratch
    label: str = "label"  # column of the manifest
    classes: str | None = None  # text file, a class a line; None: those of the training clips, in order
    freeze_backbone: bool = False  # train the classification layer alone
    model: ClassifierConfig = field(default_factory=ClassifierConfig)
    targets: TargetConfig = field(default_factory=TargetConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    run: RunConfig = field(default_factory=RunConfig)
    evaluation: ViewsConfig = field(default_factory=ViewsConfig)
