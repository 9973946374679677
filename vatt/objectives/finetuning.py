"""The module that is fine-tuned: a classifier and its loss, from a batch to losses.

Shapes: B samples, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from vatt.clip import InputConfig
from vatt.config import NotAll, Range, Section
from vatt.distributed import first_of_rank, seed_of_place
from vatt.models.classifier import Classifier
from vatt.models.mmv import ResNet
from vatt.models.tokens import ItemDraws, send
from vatt.objectives.classification import Mix, draw_mix, multi_label_loss, single_label_loss, smooth_labels
from vatt.objectives.frames import empty_frames, like_clips, with_patches


@dataclass
class TargetConfig(Section):
    """What is done to inputs and labels before the loss, in the official order: smoothing, then mixup."""

    smoothing: NotAll = 0.0  # share of the label that is spread over all classes; single labels alone
    mixup: Annotated[float, Range(0.0, 1000.0)] = 0.0  # both parameters of the Beta distribution of its share; 0: none


class Finetuning(nn.Module):
    """A `Classifier` and its loss in one module, so that an engine wraps and casts both.

    Official losses (modeling/factory.py): softmax cross entropy for one label per clip; for several, sigmoid cross
    entropy whose samples are weighted by the rarity of their labels in the batch, that of all ranks and parts of a step
    (official: of a replica).
    """

    collectives = False  # ranks meet in the gradients alone
    planes = 0  # bytes of a frame, see `Pretraining`

    def __init__(self, model: Classifier, targets: TargetConfig) -> None:
        """Raises ValueError: label smoothing with several labels per clip."""
        super().__init__()
        if targets.smoothing and model.labels == "multi":
            raise ValueError("smoothing: is for one label a clip; the model takes several")
        self.model, self.targets = model, targets

    def empty_batch(self, count: int) -> dict[str, Tensor]:
        """``count`` samples as the loader gives them, without memory (on the device "meta")."""
        config = self.model.config
        assert config is not None
        spec, video = config.input, config.modality == "video"
        sound = {"x": torch.empty(count, spec.samples, device="meta")}
        x = empty_frames(count, spec, "x", self.planes) if video else sound
        return {**x, "target": torch.empty(count, config.num_classes, device="meta")}

    def check_input(self) -> None:
        """Raises ValueError: a window of ``config.input`` is smaller than a patch, or has fewer than a step keeps."""
        windows = self.empty_batch(1)
        if not isinstance(self.model.backbone, ResNet):  # reads a log-mel, whose size was looked at before
            self.model.backbone.tokens.grid(windows["x"])
        self.draw(windows, seed=0)

    def draw(self, batch: Mapping[str, Any], seed: int, first: int | None = None) -> dict[str, Tensor]:
        """What a training step draws on the host; see `Pretraining.draw`. Mixup differs between ranks and parts.

        Args:
            batch: "x" (or planes) as in `forward`; only the shape is read.

        Returns:
            "x_kept", int64 (K,) or (B, K), where patches are dropped; with mixup "mix_order" int64 (B,) and "mix_share"
            float32 (B,).
        """
        x = like_clips(batch, "x", self._spec)
        assert x is not None
        first = first_of_rank(len(x)) if first is None else first
        generator = torch.Generator().manual_seed(seed)
        kept = self.model.backbone.tokens.draw(x, generator, ItemDraws(seed, first))
        drawn = {} if kept is None else {"x_kept": kept}
        if self.targets.mixup:
            own = torch.Generator().manual_seed(seed_of_place(seed, first))
            mix = draw_mix(len(x), self.targets.mixup, self.targets.mixup, own)
            drawn |= {"mix_order": mix.permutation, "mix_share": mix.lam}
        return drawn

    def step_sums(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """What the losses want of the batch of a whole step: whoever divides it adds these up over all parts and ranks,
        and puts the sums into each part.

        Args:
            batch: a part, with what `draw` gives.

        Returns:
            "label_counts" (K,) with several labels a clip: those of each class, after mixup; else nothing.
        """
        if self.model.labels != "multi":
            return {}
        target_BK = batch["target"]
        if self.targets.mixup:
            target_BK = Mix(batch["mix_order"], batch["mix_share"])(target_BK)
        return {"label_counts": target_BK.sum(0)}

    @property
    def _spec(self) -> InputConfig | None:
        return None if self.model.config is None else self.model.config.input

    def prepare(self, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        """The batch with patches in place of planes, if it has any; see `Pretraining.prepare`.

        Mixup takes patches like pixels where all clips keep the same. Where each keeps its own, all are made, and
        `forward` chooses behind it.
        """
        kept = batch.get("x_kept")
        made = None if self._chooses_later(kept) else kept
        return with_patches(batch, "x", self.model.backbone.tokens, self._spec, made)

    def _chooses_later(self, kept: Tensor | None) -> bool:
        """Whether mixup needs all patches of planes: what one clip keeps is mixed with the same place of another."""
        return bool(self.targets.mixup) and kept is not None and kept.ndim == 2

    def forward(self, batch: Mapping[str, Any], seed: int) -> dict[str, Tensor]:
        """The losses of a batch on this rank.

        Args:
            batch: "x" (or planes, see `prepare`) as the backbone takes it; "target" (B, K) of 0 and 1; what `draw`
                gives, or else it is drawn here; the sums of `step_sums`, where this is not the whole batch. Other keys
                are ignored.
            seed: of `draw`.

        Returns:
            "loss", and "accuracy" (share of the clips whose label scores highest) where a clip has one unmixed label.
        """
        if not batch.keys() & {"x_kept", "mix_order"}:
            batch = {**batch, **self.draw(batch, seed)}
        batch = self.prepare(batch)
        x, target_BK, kept = batch["x"], batch["target"], batch.get("x_kept")
        wanted_B = target_BK.argmax(-1)
        if self.targets.smoothing:
            target_BK = smooth_labels(target_BK, self.targets.smoothing)
        if self.targets.mixup:
            mix = Mix(send(batch["mix_order"], x.device), send(batch["mix_share"], x.device))
            x, target_BK = mix(self.model.at_level(_to_float(x))), mix(target_BK)
        if kept is not None and self._chooses_later(kept) and self.model.backbone.tokens.gathered(x):
            x = x.take_along_dim(send(kept, x.device)[..., None], 1)
        logits_BK = self.model(x, kept=kept)
        if self.model.labels == "multi":
            return {"loss": multi_label_loss(logits_BK, target_BK, batch.get("label_counts"))}
        losses = {"loss": single_label_loss(logits_BK, target_BK)}
        if not self.targets.mixup:
            losses["accuracy"] = (logits_BK.argmax(-1) == wanted_B).float().mean()
        return losses


def _to_float(x: Tensor) -> Tensor:
    """uint8 pixels to [-1, 1]; anything else as it is."""
    return x.float() / 127.5 - 1 if x.dtype == torch.uint8 else x
