"""The module that is pretrained: VATT and its contrastive loss, from a batch to losses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vatt.models.config import VATTConfig
from vatt.models.vatt import VATT
from vatt.objectives.contrastive import ContrastiveLoss


class Pretraining(nn.Module):
    """`VATT` and `ContrastiveLoss` in one module, so that an engine wraps and casts both."""

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

    def forward(self, batch: Mapping[str, Any], seed: int) -> dict[str, Tensor]:
        """The losses of a batch on this rank.

        Args:
            batch: "video", "audio", "text" as `VATT.forward` takes them; "audio_mask", "text_mask" (B,), 1 valid and
                0 missing, optional. Other keys are ignored.
            seed: of DropToken's generator. Give each step and rank its own.

        Returns:
            "loss" and the weighted loss of each pair, scalars; see `ContrastiveLoss.forward`.
        """
        generator = torch.Generator().manual_seed(seed)
        inputs = {name: batch.get(name) for name in ("video", "audio", "text")}
        embeddings = self.vatt(**inputs, generator=generator)
        return self.loss(embeddings, audio_mask=batch.get("audio_mask"), text_mask=batch.get("text_mask"))
