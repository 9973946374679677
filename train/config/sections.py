"""The sections of a configuration that pretraining and fine-tuning share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

from vatt.data.config import AugmentConfig, DataConfig

KERNEL_CHOICES = ("auto", "measured", "unmeasured")  # of `EngineConfig.kernels`, beside names of backends


@dataclass
class OptimConfig:
    """Adam or SGD as in the official code (Adam's epsilon is not bias-corrected) and the learning rate over the steps.

    The first two schedules are of pretraining: the official code's, and the paper's; "cosine" ends at 0.
    """

    kind: Literal["adam", "sgd"] = "adam"  # sgd: with momentum, the rate inside the velocity
    schedule: Literal["step_cosine", "quarter_cosine", "cosine"] = "step_cosine"  # of the rate after warm-up
    lr: float = 1e-4  # after warm-up
    final_lr: float = 5e-5  # at the last step; not of "cosine"
    warmup_steps: int = 5000  # in which the rate rises from 0
    momentum: float = 0.9  # of SGD
    beta1: float = 0.9  # of Adam: decay of the mean
    beta2: float = 0.999  # of Adam: decay of the mean square
    epsilon: float = 1e-7  # of Adam, added to the root of the mean square
    weight_decay: float = 0.0  # decoupled from the gradient for adam; added to it (L2) for sgd
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
    activation_checkpointing: bool = False  # keep only the inputs of layers; the backward pass computes the rest again
    cuda_graphs: bool = False  # forward and backward pass in one launch each; not with zero 3, and not yet run on a GPU
    contrastive_parts: int = 1  # of a rank's batch, one in memory at a time, with the loss of the whole; 0: from memory
    gradient_accumulation: int = 1  # ANOTHER loss: negatives of one part alone; contrastive_parts keeps those of all
    threads: int = 0  # of PyTorch on a CPU, each rank; 0: all cores but one. A resumed run keeps what it began with
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
        if self.zero not in (0, 1, 2, 3):
            raise ValueError(f"zero: {self.zero} is not one of 0, 1, 2, 3")
        if self.threads < 0:
            raise ValueError(f"threads: {self.threads} must not be negative")
        if self.gradient_accumulation < 1:
            raise ValueError(f"gradient_accumulation: {self.gradient_accumulation} must be 1 or more")
        if self.contrastive_parts < 0:
            raise ValueError(f"contrastive_parts: {self.contrastive_parts} must be 1 or more, or 0 (from memory)")
        if self.contrastive_parts != 1 and self.gradient_accumulation > 1:
            raise ValueError(
                "contrastive_parts, gradient_accumulation: only one of the two may divide a batch; contrastive_parts "
                "has the loss of the whole batch"
            )
        if self.offload_optimizer and self.zero == 0:
            raise ValueError("offload_optimizer: needs zero 1, 2 or 3")


@dataclass
class RunConfig:
    """Length, pace and safety of the run."""

    steps: int = 500_000  # of training
    batch_size: int = 2048  # clips of a step, over all ranks
    seed: int = 0  # of weights, windows, augmentation and dropout
    log_every: int = 50  # steps between two lines of metrics.jsonl
    eval_every: int = 10_000  # steps between two evaluations; 0: only at the end
    save_every: int = 10_000  # steps between two checkpoints; 0: only at the end
    keep: int = 3  # checkpoints, the newest
    max_skipped_steps: int = 10  # steps in a row with a loss or gradient that is not finite

    def __post_init__(self) -> None:
        if min(self.steps, self.batch_size, self.log_every, self.keep, self.max_skipped_steps) < 1:
            raise ValueError("steps, batch_size, log_every, keep and max_skipped_steps must be 1 or more")
        if min(self.eval_every, self.save_every, self.seed) < 0:
            raise ValueError("eval_every, save_every and seed must not be negative")


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
