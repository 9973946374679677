"""VATT: backbones of three modalities and the head that brings them into common spaces.

Shapes: B clips, C candidate sentences of a clip, W words, D width.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from vatt.config import check
from vatt.models.backbones import Backbone, SpectrogramBackbone, VideoBackbone, WaveformBackbone
from vatt.models.config import VATTConfig
from vatt.models.heads import build_head
from vatt.models.mmv import I3D, ConvBackbone, ResNet
from vatt.models.mmv.layers import NO_CHECKPOINTING, WholeSignal
from vatt.models.sound import at_level, check_spectrogram, log_mel, log_mel_shape
from vatt.models.text import TextBackbone
from vatt.models.tokens import ItemDraws, PatchTokens, send
from vatt.models.transformer import Encoder
from vatt.models.unified import UnifiedBackbone


class VATT(nn.Module):
    """The pretraining model: with separate Transformers, one for all modalities (modality-agnostic), or the
    convolutional networks of the baseline (MMV)."""

    def __init__(self, config: VATTConfig, backend: str = "auto") -> None:
        """``backend`` is passed to every operation; see `vatt.kernels`.

        Raises:
            ValueError: a configuration that cannot be built; the message names the field.
        """
        super().__init__()
        check(config)  # whose sections may have been changed since they were made
        self.config = config
        self.unified: UnifiedBackbone | None = None
        if config.backbone == "unified":
            if config.audio_input != "waveform":
                raise ValueError(f"audio_input: the unified backbone reads waveforms, got {config.audio_input!r}")
            self.unified = UnifiedBackbone(config.unified, backend)
            widths = (self.unified.width,) * 3
        else:
            self.video: Backbone | ConvBackbone
            self.audio: Backbone | ConvBackbone
            if config.backbone == "convolutional":
                self.video, self.audio = I3D(config.i3d), ResNet(config.resnet)
                log_mel_shape(config.input, config.resnet)
            elif config.audio_input == "waveform":
                self.video = VideoBackbone(config.video, backend)
                self.audio = WaveformBackbone(config.waveform, backend)
            else:
                check_spectrogram(config.input, config.spectrogram)
                self.video = VideoBackbone(config.video, backend)
                self.audio = SpectrogramBackbone(config.spectrogram, backend)
            self.text = TextBackbone(config.text, backend)
            widths = (self.video.width, self.audio.width, self.text.width)
        self.head = build_head(config.head, *widths)

    @property
    def activation_checkpointing(self) -> bool:
        """Whether the encoder layers keep only their inputs in training, and compute the rest again backwards.

        Raises ValueError when it is switched on for convolutional networks.
        """
        return self.config.backbone != "convolutional" and all(
            encoder.activation_checkpointing for encoder in self._encoders()
        )

    @activation_checkpointing.setter
    def activation_checkpointing(self, on: bool) -> None:
        if on and self.config.backbone == "convolutional":
            raise ValueError(NO_CHECKPOINTING)
        for encoder in self._encoders():
            encoder.activation_checkpointing = on

    def forward(
        self,
        video: Tensor | None = None,
        audio: Tensor | None = None,
        text: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
        kept: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Features and embeddings of the modalities given.

        Args:
            video: (B, T, H, W, 3), uint8 in [0, 255] or floating point in [-1, 1].
            audio: (B, L) in [-1, 1], brought to its level here. A spectrogram model makes its log-mel of that, or takes
                one that is made, (B, T, F), as it is.
            text: (B, C, W) or (B, W) integer word ids, 0 = padding.
            generator: CPU generator of DropToken, which is active in training mode; video draws first, then audio, both
                before anything is computed.
            kept: instead of drawing them, the patches to keep: what `draw_kept` gives.

        Returns:
            "video/features_pooled", "audio/features_pooled" (B, D), "text/features_pooled" (B*C, D, candidate fastest),
            and the embeddings of the head: "video/toaud", "video/totxt", "audio/tovid", "text/tovid" (the joint head
            adds "audio/totxt" and "text/toaud").

        Raises:
            ValueError: no input, or one that does not fit; the message names it.
        """
        pooled = self.features(video, audio, text, generator=generator, kept=kept)
        return {**{f"{modality}/features_pooled": x for modality, x in pooled.items()}, **self.head(pooled)}

    def features(
        self,
        video: Tensor | None = None,
        audio: Tensor | None = None,
        text: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
        kept: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """What the backbones make of the modalities given, in front of the head: modality -> (B, D), text (B*C, D).
        Arguments and errors are those of `forward`. They may be views of larger tensors."""
        if audio is not None and audio.ndim == 2:
            audio = self._hear(audio)
        given = {"video": video, "audio": audio, "text": None if text is None else _flat(text)}
        inputs = {modality: x for modality, x in given.items() if x is not None}
        if not inputs:
            raise ValueError("VATT: at least one of video, audio and text must be given")
        kept = self.draw_kept(inputs, generator) if kept is None else kept
        features = self._backbones(inputs, {name: send(indices, inputs[name].device) for name, indices in kept.items()})
        return {modality: features[modality]["features_pooled"] for modality in inputs}

    def draw_kept(
        self,
        inputs: Mapping[str, Tensor],
        generator: torch.Generator | None = None,
        items: ItemDraws | None = None,
    ) -> dict[str, Tensor]:
        """The patches that DropToken keeps in a training step, int64 on the CPU, for `forward`.

        Args:
            inputs: modality -> signal; only the shapes are read.
            generator: CPU generator; None is PyTorch's default one. Video draws first, then audio.
            items: of the configurations with ``sample_per_item``, if not ``generator``.

        Returns:
            "video" and "audio", (K,) or (B, K), those that drop patches; nothing in evaluation mode.

        Raises:
            ValueError: an input that does not fit; the message names it.
        """
        order = [modality for modality in ("video", "audio") if modality in inputs]
        drawn = {name: self.patches(name).draw(inputs[name], generator, items) for name in order}
        return {name: kept for name, kept in drawn.items() if kept is not None}

    def patches(self, modality: str) -> PatchTokens | WholeSignal:
        """What makes tokens of "video" or "audio", or what stands there in a convolutional network."""
        if self.unified is not None:
            return self.unified.video_tokens if modality == "video" else self.unified.audio_tokens
        return self.video.tokens if modality == "video" else self.audio.tokens

    def _hear(self, audio_BL: Tensor) -> Tensor:
        """Waveforms at their level; for a spectrogram model their log-mel (B, T, F)."""
        config = self.config
        audio_BL = at_level(audio_BL, config.input.audio_level)
        if config.audio_input == "waveform":
            return audio_BL
        convolutional = config.backbone == "convolutional"
        return log_mel(audio_BL, config.input, config.resnet if convolutional else config.spectrogram)

    def _backbones(self, inputs: dict[str, Tensor], kept: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        if self.unified is not None:
            return self.unified.forward_packed(inputs, kept=kept)
        features = {}
        for modality, x in inputs.items():
            if modality == "text":
                features[modality] = self.text(x)
            else:
                features[modality] = (self.video if modality == "video" else self.audio)(x, kept=kept.get(modality))
        return features

    def _encoders(self) -> list[Encoder]:
        return [module for module in self.modules() if isinstance(module, Encoder)]


def _flat(text: Tensor) -> Tensor:
    """(B, C, W) -> (B*C, W), the candidate fastest."""
    if text.ndim not in (2, 3):
        raise ValueError(f"text: expected (clips, candidates, words) or (clips, words), got {tuple(text.shape)}")
    return text.flatten(0, -2)
