"""The sections of a configuration that pretraining and fine-tuning share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol

from vatt.config import ConfigError, Count, CountOrNone, NotAll, Range, Section, nearest, show
from vatt.data.config import AugmentConfig, DataConfig
from vatt.models.mmv.layers import NO_CHECKPOINTING

Norm = Annotated[float, Range(0.0, 1e9)]
Stage = Annotated[int, Range(0, 3)]
Parts = Annotated[int, Range(1, 65_536)]
PartsOrNone = Annotated[int, Range(0, 65_536)]
Threads = Annotated[int, Range(0, 4096)]
Decay = Annotated[float, Range(0.0, 10.0)]

TRACKERS = ("tensorboard", "wandb", "trackio")  # see train/core/tracking.py
KERNEL_CHOICES = ("auto", "measured", "unmeasured")  # of `EngineConfig.kernels`, beside names of backends


@dataclass
class OptimConfig(Section):
    """Adam or SGD as in the official code (Adam's epsilon is not bias-corrected) and the learning rate over the steps.

    The first two schedules are of pretraining: the official code's, and the paper's; "cosine" ends at 0.
    """

    kind: Literal["adam", "sgd"] = "adam"  # sgd: with momentum, the rate inside the velocity
    schedule: Literal["step_cosine", "quarter_cosine", "cosine"] = "step_cosine"  # of the rate after warm-up
    lr: Annotated[float, Range(0.0, 100.0, above=True)] = 1e-4  # after warm-up
    final_lr: Annotated[float, Range(0.0, 100.0)] = 5e-5  # at the last step; not of "cosine"
    warmup_steps: CountOrNone = 5000  # in which the rate rises from 0
    momentum: NotAll = 0.9  # of SGD
    beta1: NotAll = 0.9  # of Adam: decay of the mean
    beta2: NotAll = 0.999  # of Adam: decay of the mean square
    epsilon: Annotated[float, Range(1e-30, 1.0)] = 1e-7  # of Adam, added to the root of the mean square
    weight_decay: Decay = 0.0  # decoupled from the gradient for adam; added to it (L2) for sgd
    clip_norm: Norm = 0.0  # of the whole gradient; 0 does not clip, as the official pretraining
    clip_backbone: Norm = 0.0  # of the gradient without that of the classification layer; 0 does not clip

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.clip_norm and self.clip_backbone:
            raise ValueError("clip_norm, clip_backbone: only one of the two may be above 0")


@dataclass
class EngineConfig(Section):
    """How the work is spread over devices; turned into a DeepSpeed configuration."""

    zero: Stage = 0  # ZeRO stage: 0 none, 1 optimizer states, 2 and gradients, 3 and parameters; bf16: 0 runs as 1
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: bf16 on a GPU, fp32 on a CPU
    offload_optimizer: bool = False  # optimizer states in CPU memory (zero 1 to 3)
    activation_checkpointing: bool = False  # keep only the inputs of layers; the backward pass computes the rest again
    cuda_graphs: bool = False  # forward and backward pass in one launch each; not with zero 3
    contrastive_parts: PartsOrNone = 1  # of a rank's batch, one in memory at a time; loss of the whole; 0: from memory
    gradient_accumulation: Parts = 1  # ANOTHER loss: negatives of one part alone; contrastive_parts keeps those of all
    threads: Threads = 0  # of PyTorch on a CPU, each rank; 0: all cores but one. A resumed run keeps what it began with
    kernels: str = "auto"  # triton, torch; or auto: checked and timed on a GPU; measured: on a CPU too; unmeasured: not
    deepspeed: str | None = None  # path of a DeepSpeed JSON whose entries go over the generated ones

    @property
    def parts(self) -> int:
        """How many times the passes run for a step, each time with a part of the rank's batch."""
        return max(self.contrastive_parts, self.gradient_accumulation)

    @property
    def without_parts(self) -> str | None:
        """The setting that rules out engine.contrastive_parts; None where nothing does."""
        ruling_out = {
            "gradient_accumulation": self.gradient_accumulation > 1,
            "offload_optimizer": self.offload_optimizer,
            "cuda_graphs": self.cuda_graphs,
        }
        return next((name for name, on in ruling_out.items() if on), None)

    @property
    def backend(self) -> str:
        """What the models are told: "auto", or the backend of all operations."""
        return "auto" if self.kernels in KERNEL_CHOICES else self.kernels

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.contrastive_parts != 1 and self.gradient_accumulation > 1:
            raise ValueError(
                "contrastive_parts, gradient_accumulation: only one of the two may divide a batch; contrastive_parts "
                "has the loss of the whole batch"
            )
        if self.offload_optimizer and self.zero == 0:
            raise ValueError("offload_optimizer: needs zero 1, 2 or 3")


@dataclass
class RunConfig(Section):
    """Length, pace and safety of the run."""

    steps: Count = 500_000  # of training
    batch_size: Annotated[int, Range(1, 10_000_000)] = 2048  # clips of a step, over all ranks
    seed: Annotated[int, Range(0, 2**63 - 1)] = 0  # of weights, windows, augmentation and dropout
    log_every: Count = 50  # steps between two lines of metrics.jsonl
    eval_every: CountOrNone = 10_000  # steps between two evaluations; 0: only at the end
    save_every: CountOrNone = 10_000  # steps between two checkpoints; 0: only at the end
    keep: Annotated[int, Range(1, 1_000_000)] = 3  # checkpoints, the newest
    max_skipped_steps: Count = 10  # steps in a row with a loss or gradient that is not finite
    track: str = "auto"  # tensorboard, wandb, trackio, several with commas, or none; auto: tensorboard, if installed

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.track not in ("auto", "none"):
            for name in self.track.split(","):
                if name.strip() not in TRACKERS:
                    raise ValueError(f"track: {show(name)} is no tracker; {nearest(name.strip(), TRACKERS)}")


class JobConfig(Protocol):
    """What the shared code reads of a configuration: `PretrainConfig` and `FinetuneConfig` have these sections."""

    model: Any  # with a name
    data: DataConfig
    optim: OptimConfig
    engine: EngineConfig
    run: RunConfig


def sample_augment() -> AugmentConfig:
    """Augmentation of the built-in sample. Its labels and captions name colours, so hue is left alone; its shapes take
    a third of the frame, so a crop keeps most of it."""
    return AugmentConfig(
        area_min=0.7, aspect_min=0.9, aspect_max=1.1, hue=0.0, saturation=0.2, contrast=0.2, brightness=0.1
    )


def refuse_for_convolutions(engine: EngineConfig, convolutional: bool) -> None:
    """Raises ConfigError: a setting of the engine that the batch norms of convolutional networks rule out."""
    if convolutional and engine.activation_checkpointing:
        raise ConfigError(f"engine.{NO_CHECKPOINTING}")
    if convolutional and engine.contrastive_parts > 1:
        raise ConfigError(
            "engine.contrastive_parts: cannot be used with convolutional networks, whose batch norms must see the "
            "whole batch; a smaller run.batch_size takes less memory"
        )
