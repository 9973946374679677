"""The module that is pretrained: VATT and its contrastive loss, from a batch to losses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vatt.distributed import seed_of_rank
from vatt.models.config import VATTConfig
from vatt.models.vatt import VATT
from vatt.objectives.contrastive import ContrastiveLoss
from vatt.objectives.frames import empty_frames, like_clips, with_patches


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
        spec, sound = config.input, config.spectrogram
        audio: tuple[int, ...] = (spec.samples,)
        if config.audio_input == "spectrogram":
            steps, bins = sound.temporal_patch_size, sound.spectoral_patch_size
            audio = sound.max_temporal_buckets * steps, sound.max_spectoral_buckets * bins
        return {
            **empty_frames(count, spec, "video", self.planes),
            "audio": torch.empty(count, *audio, device="meta"),
            "text": torch.empty(count, spec.candidates, spec.words, dtype=torch.int64, device="meta"),
            "audio_mask": torch.empty(count, device="meta"),
            "text_mask": torch.empty(count, device="meta"),
        }

    def draw(self, batch: Mapping[str, Any], seed: int, part: int = 0) -> dict[str, Tensor]:
        """What a training step draws on the host, to be put into the batch before it goes to the device.

        One permutation of patches for the whole batch, as in the official code, is alike on all ranks and in all parts
        of an accumulated step. With ``sample_per_item`` ranks and parts draw their own.

        Args:
            batch: "video" (or planes), "audio" as in `forward`; only the shapes are read.
            seed: of the step.
            part: of gradient accumulation, counted from 0.

        Returns:
            "video_kept", "audio_kept", int64 (K,) or (B, K), those that drop patches; nothing in evaluation mode.
        """
        video = like_clips(batch, "video", self.vatt.config.input)
        inputs = {name: x for name, x in (("video", video), ("audio", batch.get("audio"))) if x is not None}
        own = torch.Generator().manual_seed(seed_of_rank(seed, part))
        kept = self.vatt.draw_kept(inputs, torch.Generator().manual_seed(seed), own)
        return {f"{name}_kept": indices for name, indices in kept.items()}

    def prepare(self, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        """The batch with patches in place of planes, if it has any: what the device does in front of the passes."""
        tokens, spec = self.vatt.patches("video"), self.vatt.config.input
        return with_patches(batch, "video", tokens, spec, batch.get("video_kept"))

    def forward(self, batch: Mapping[str, Any], seed: int) -> dict[str, Tensor]:
        """The losses of a batch on this rank.

        Args:
            batch: "video" (or planes, see `prepare`), "audio", "text" as `VATT.forward` takes them; "audio_mask",
                "text_mask" (B,), 1 valid and 0 missing, optional; what `draw` gives, or else it is drawn here. Other
                keys are ignored.
            seed: of `draw`. Give each step its own.

        Returns:
            "loss" and the weighted loss of each pair, scalars; see `ContrastiveLoss.forward`.
        """
        if not any(f"{name}_kept" in batch for name in ("video", "audio")):
            batch = {**batch, **self.draw(batch, seed)}
        batch = self.prepare(batch)
        inputs = {name: batch.get(name) for name in ("video", "audio", "text")}
        kept = {name: batch[f"{name}_kept"] for name in inputs if f"{name}_kept" in batch}
        embeddings = self.vatt(**inputs, kept=kept)
        return self.loss(embeddings, audio_mask=batch.get("audio_mask"), text_mask=batch.get("text_mask"))
