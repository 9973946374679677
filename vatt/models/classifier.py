"""A backbone with a classification layer, for fine-tuning.

Shapes: B samples, V clips (views) of one sample, D width, K classes.
"""

from __future__ import annotations

import math
from typing import Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vatt.config import check
from vatt.models.backbones import Backbone, VideoBackbone, WaveformBackbone
from vatt.models.config import ClassifierConfig
from vatt.models.layers import Dense
from vatt.models.mmv import I3D, ConvBackbone, ResNet
from vatt.models.sound import at_level, log_mel, log_mel_shape


class Classifier(nn.Module):
    """Dropout and a dense layer on the pooled feature (official modeling/factory.py).

    Official rates: 0.5 for video, 0 for audio. For audio (many labels per sample) the bias starts at
    -log(num_classes - 1), so that every class begins with the probability 1 / num_classes.
    """

    def __init__(
        self,
        backbone: Backbone | ConvBackbone,
        num_classes: int,
        dropout: float = 0.0,
        labels: Literal["single", "multi"] = "single",
    ) -> None:
        """``labels``: one class per sample (softmax), or any number (sigmoid)."""
        super().__init__()
        self.backbone = backbone
        self.classifier = Dense(backbone.width, num_classes)
        self.dropout, self.labels = dropout, labels
        self.config: ClassifierConfig | None = None  # set by `from_config`
        if labels == "multi" and num_classes > 1 and self.classifier.bias is not None:
            nn.init.constant_(self.classifier.bias, -math.log(num_classes - 1))

    @classmethod
    def from_config(cls, config: ClassifierConfig, backend: str = "auto") -> Self:
        """The classifier of a configuration, with random weights.

        Raises:
            ValueError: a configuration that cannot be built; the message names the field.
        """
        check(config)  # whose sections may have been changed since they were made
        backbone: Backbone | ConvBackbone
        if config.network == "convolutional":
            backbone = I3D(config.i3d) if config.modality == "video" else ResNet(config.resnet)
            log_mel_shape(config.input, config.resnet)
        elif config.modality == "video":
            backbone = VideoBackbone(config.video, backend)
        else:
            backbone = WaveformBackbone(config.waveform, backend)
        model = cls(backbone, config.num_classes, config.dropout, config.labels)
        model.config = config
        return model

    def forward(
        self, x: Tensor, *, views: int = 1, generator: torch.Generator | None = None, kept: Tensor | None = None
    ) -> Tensor:
        """Logits (B, K).

        Args:
            x: (B * views, ...), the views of a sample next to each other; sounds are brought to their level here, and
                made a log-mel for a convolutional network.
            views: clips of one sample; their logits are averaged.
            generator: of DropToken.
            kept: int64 (K,) or (B, K), the patches to keep, instead of drawing them.
        """
        pooled = self.backbone(self.read(x), generator=generator, kept=kept)["features_pooled"]
        if self.training and self.dropout > 0:
            pooled = F.dropout(pooled, self.dropout)
        if self.training:
            return average_views(self.classifier(pooled), views)
        # At least fp32: in bfloat16 many of the scores that are ranked would be equal.
        dtype, bias = torch.promote_types(pooled.dtype, torch.float32), self.classifier.bias
        weight = self.classifier.weight.to(dtype)
        return average_views(F.linear(pooled.to(dtype), weight, None if bias is None else bias.to(dtype)), views)

    def read(self, x: Tensor) -> Tensor:
        """What the backbone reads of a signal: sound (B, L) at its level, for a convolutional network its log-mel
        (B, T, M); pictures as they are."""
        x = self.at_level(x)
        if isinstance(self.backbone, ResNet) and x.ndim == 2 and self.config is not None:
            x = log_mel(x, self.config.input, self.config.resnet)
        return x

    def at_level(self, x: Tensor) -> Tensor:
        """Sound (B, L) as `forward` brings it to ``config.input.audio_level``; pictures as they are.

        Who mixes sounds calls it first: of a loud sound and a quiet one, mixed as they are, the quiet one is not heard,
        while its share of the label is. The model brings the mixture to its level again.
        """
        if self.config is None or self.config.modality != "audio":
            return x
        return at_level(x, self.config.input.audio_level)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Softmax or sigmoid of the (averaged) logits."""
        return logits.softmax(-1) if self.labels == "single" else logits.sigmoid()


def average_views(logits: Tensor, views: int) -> Tensor:
    """(B * views, K) -> (B, K), the view index fastest.

    Raises:
        ValueError: the number of rows is no multiple of ``views``.
    """
    if views < 1 or logits.shape[0] % views:
        raise ValueError(f"views: {logits.shape[0]} rows are no multiple of {views}")
    return logits.unflatten(0, (-1, views)).mean(1)
