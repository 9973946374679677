"""The module that is pretrained: VATT and its contrastive loss, from a batch to losses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vatt.distributed import first_of_rank
from vatt.models.config import VATTConfig
from vatt.models.tokens import ItemDraws
from vatt.models.vatt import VATT
from vatt.objectives.contrastive import ContrastiveLoss
from vatt.objectives.frames import empty_frames, like_clips, with_patches
from vatt.objectives.parts import MASKS, Part


class Pretraining(nn.Module):
    """`VATT` and `ContrastiveLoss` in one module, so that an engine wraps and casts both.

    Attributes:
        planes: bytes of a frame in the batches of a run that leaves crop, scale and colours to the GPU
            (`vatt.objectives.frames`); 0: batches hold RGB.
    """

    collectives = True  # the forward pass gathers the negatives of all ranks
    planes = 0

    def __init__(self, config: VATTConfig, backend: str = "auto") -> None:
        """Raises ValueError for a configuration that cannot be trained; the message names the field."""
        super().__init__()
        if config.head.kind == "fac" and config.loss.aud_txt_weight > 0:
            raise ValueError(
                "loss.aud_txt_weight: must be 0 with head.kind 'fac', which has no common space of audio and text; "
                "use head.kind 'joint'"
            )
        self.vatt = VATT(config, backend)
        self.loss = ContrastiveLoss(config.loss, backend)

    def empty_batch(self, count: int) -> dict[str, Tensor]:
        """``count`` clips as the loader gives them, without memory (on the device "meta")."""
        config = self.vatt.config
        spec = config.input
        return {
            **empty_frames(count, spec, "video", self.planes),
            "audio": torch.empty(count, spec.samples, device="meta"),
            "text": torch.empty(count, spec.candidates, spec.words, dtype=torch.int64, device="meta"),
            "audio_mask": torch.empty(count, device="meta"),
            "text_mask": torch.empty(count, device="meta"),
        }

    def empty_features(self, count: int, dtype: torch.dtype) -> dict[str, Tensor]:
        """What `forward` gives as "features" for ``count`` clips, without memory (on the device "meta")."""
        config = self.vatt.config
        widths, sentences = config.feature_widths, config.input.candidates
        rows = {"video": count, "audio": count, "text": count * sentences}
        features = {name: torch.empty(rows[name], D, dtype=dtype, device="meta") for name, D in widths.items()}
        return features | {name: torch.empty(count, device="meta") for name in MASKS}

    def check_input(self) -> None:
        """Raises ValueError: a window of ``config.input`` is smaller than a patch, or has fewer than a step keeps."""
        windows = self.empty_batch(1)
        for modality in ("video", "audio"):
            if modality == "video" or self.vatt.config.audio_input == "waveform":  # spectrograms were checked before
                self.vatt.patches(modality).grid(windows[modality])
        self.draw(windows, seed=0)

    def draw(self, batch: Mapping[str, Any], seed: int, first: int | None = None) -> dict[str, Tensor]:
        """What a training step draws on the host, to be put into the batch before it goes to the device.

        One permutation of patches serves the whole batch, as in the official code. With ``sample_per_item`` a clip has
        its own by its place in that batch. So neither the number of ranks nor that of the parts of a step matters.

        Args:
            batch: "video" (or planes), "audio" as in `forward`; only the shapes are read.
            seed: of the step.
            first: place of the first clip in the batch of all ranks; None: each rank has one batch of this size.

        Returns:
            "video_kept", "audio_kept", int64 (K,) or (B, K), those that drop patches; nothing in evaluation mode.
        """
        video = like_clips(batch, "video", self.vatt.config.input)
        inputs = {name: x for name, x in (("video", video), ("audio", batch.get("audio"))) if x is not None}
        first = first_of_rank(len(next(iter(inputs.values())))) if first is None else first
        kept = self.vatt.draw_kept(inputs, torch.Generator().manual_seed(seed), ItemDraws(seed, first))
        return {f"{name}_kept": indices for name, indices in kept.items()}

    def prepare(self, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        """The batch with patches in place of planes, if it has any: what the device does in front of the passes."""
        tokens, spec = self.vatt.patches("video"), self.vatt.config.input
        return with_patches(batch, "video", tokens, spec, batch.get("video_kept"))

    def features(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """The pooled features of a batch or a part of it, in front of the head: "video", "audio" (B, D), "text"
        (B*C, D, candidate fastest). ``batch`` as `forward` takes it, with what `draw` gives."""
        batch = self.prepare(batch)
        inputs = {name: batch.get(name) for name in ("video", "audio", "text")}
        kept = {name: batch[f"{name}_kept"] for name in inputs if f"{name}_kept" in batch}
        return self.vatt.features(**inputs, kept=kept)

    def losses(self, features: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What `forward` returns, from the `features` and the masks (`MASKS`, those given) of the whole batch of this
        rank. Head, batch norm and loss see all of it, so call it once a step."""
        return self.loss(self.vatt.head(features), **{name: masks[name] for name in MASKS if name in masks})

    def forward(
        self, batch: Mapping[str, Any], seed: int, part: Part = "whole", cached: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """The losses of a batch on this rank. In one call, whatever is computed, as engines want it of a module.

        Args:
            batch: "video" (or planes, see `prepare`), "audio", "text" as `VATT.forward` takes them; "audio_mask",
                "text_mask" (B,), 1 valid and 0 missing, optional; what `draw` gives, or else it is drawn here. Other
                keys are ignored.
            seed: of `draw`. Give each step its own.
            part: "features": no losses, only `features` and the masks of ``batch``. "last": ``batch`` is the last part
                of the batch of the step, and ``cached`` what "features" gave for those before, joined. See
                `vatt.objectives.parts`.

        Returns:
            "loss" and the weighted loss of each pair, scalars; see `ContrastiveLoss.forward`.
        """
        if not any(f"{name}_kept" in batch for name in ("video", "audio")):
            batch = {**batch, **self.draw(batch, seed)}
        found = self.features(batch) | {name: batch[name] for name in MASKS if batch.get(name) is not None}
        if part == "features":
            return found
        if cached:
            found = {name: torch.cat([cached[name], x]) for name, x in found.items()}
        return self.losses({name: x for name, x in found.items() if name not in MASKS}, found)
