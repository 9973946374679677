"""VATT: backbones of three modalities and the head that brings them into common spaces.

Shapes: B clips, C candidate sentences a clip, W words, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from vatt.models.backbones import Backbone, SpectrogramBackbone, VideoBackbone, WaveformBackbone
from vatt.models.config import VATTConfig
from vatt.models.heads import build_head
from vatt.models.text import TextBackbone
from vatt.models.transformer import Encoder
from vatt.models.unified import UnifiedBackbone

if TYPE_CHECKING:  # those modules import this one
    from vatt.data.manifest import Clip
    from vatt.data.tokenizer import Tokenizer

    Media = str | Path | Clip | Tensor | Sequence[str | Path | Clip] | Sequence[Tensor]


class VATT(nn.Module):
    """The pretraining model, with separate backbones or one for all modalities (modality-agnostic)."""

    def __init__(self, config: VATTConfig, backend: str = "auto") -> None:
        """``backend`` is passed to every operation; see `vatt.kernels`.

        Raises:
            ValueError: a configuration that cannot be built; the message names the field.
        """
        super().__init__()
        self.config = config
        self.tokenizer: Tokenizer | None = None  # set by `from_pretrained`; `embed_text` needs it
        self.unified: UnifiedBackbone | None = None
        if config.backbone == "unified":
            if config.audio_input != "waveform":
                raise ValueError(f"audio_input: the unified backbone reads waveforms, got {config.audio_input!r}")
            self.unified = UnifiedBackbone(config.unified, backend)
            widths = (self.unified.width,) * 3
        else:
            self.video = VideoBackbone(config.video, backend)
            self.audio: Backbone
            if config.audio_input == "waveform":
                self.audio = WaveformBackbone(config.waveform, backend)
            else:
                self.audio = SpectrogramBackbone(config.spectrogram, backend)
            self.text = TextBackbone(config.text, backend)
            widths = (self.video.width, self.audio.width, self.text.width)
        self.head = build_head(config.head, *widths)

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, backend: str = "auto", *, vocabulary: str | Path | None = None
    ) -> VATT:
        """The model in a folder that a run, or ``vatt convert``, has left; on the CPU, in evaluation mode.

        Args:
            vocabulary: the words, where the folder has no tokenizer.json: one a line, or BERT's ``vocab.txt``.

        Raises:
            PretrainedError: see `vatt.weights.folder.load_pretrained`; also for the folder of a classifier.
            TextError: the words cannot be read, or are more than the model has vectors for.
        """
        from vatt.inference import find_tokenizer
        from vatt.weights.folder import PretrainedError, load_pretrained, model_folder

        model = load_pretrained(folder, backend)
        if not isinstance(model, cls):
            name = type(model).__name__
            raise PretrainedError(
                f"{folder}: holds a {name}, which knows classes and no common space; name a pretraining model, or "
                f"load this one by {name}.from_pretrained"
            )
        model.tokenizer = find_tokenizer(model_folder(folder), vocabulary, model.config)
        return model

    def embed_video(
        self, videos: Media, *, space: str = "text", windows: int = 4, batch_size: int = 8, workers: int = 0
    ) -> Tensor:
        """Embeddings of videos, L2-normalised, in evaluation mode and without gradients; float32 on the CPU.

        Args:
            videos: a path (or `Clip`, or picture), or a tensor (T, H, W, 3) or (B, T, H, W, 3) of the size that the
                model reads, uint8 or floating point in [-1, 1]; or a list of paths or of tensors.
            space: "text" (compare with `embed_text`), "audio" (with `embed_audio`), or "features": the pooled output
                of the backbone, not normalised.
            windows: of a file, spread evenly over it; their embeddings are averaged, then normalised (paper: 4).
            batch_size: items in the model at once, each with all of its windows.
            workers: processes that decode files; 0 decodes here.

        Returns:
            (D,) of one item, (B, D) of several.

        Raises:
            MediaError: a file cannot be decoded. SpaceError: no such space. TypeError, ValueError: an item or a tensor
            that does not fit.
        """
        from vatt.inference import embed_media

        return embed_media(self, videos, "video", space=space, windows=windows, batch_size=batch_size, workers=workers)

    def embed_audio(
        self,
        sounds: Media,
        *,
        space: str = "video",
        windows: int = 4,
        batch_size: int = 8,
        workers: int = 0,
        sample_rate: int | None = None,
    ) -> Tensor:
        """As `embed_video`, of sound: paths of sound files or videos, or tensors (L,) or (B, L) in [-1, 1].

        Args:
            space: "video" (compare with ``embed_video(..., space="audio")``), "text" with a joint head, or "features".
            sample_rate: of tensors, in Hz; where it is given it must be the model's.
        """
        from vatt.inference import embed_media

        return embed_media(
            self,
            sounds,
            "audio",
            space=space,
            windows=windows,
            batch_size=batch_size,
            workers=workers,
            sample_rate=sample_rate,
        )

    def embed_text(self, sentences: str | Sequence[str], *, space: str = "video", batch_size: int = 256) -> Tensor:
        """As `embed_video`, of sentences: at most ``config.input.words`` words of each count.

        Args:
            space: "video" (compare with `embed_video`), "audio" with a joint head, or "features".

        Raises:
            TextError: the model has no tokenizer, or a sentence has no word.
        """
        from vatt.inference import embed_text

        return embed_text(self, sentences, space=space, batch_size=batch_size)

    @property
    def activation_checkpointing(self) -> bool:
        """Whether the encoder layers keep only their inputs in training, and compute the rest again backwards."""
        return all(encoder.activation_checkpointing for encoder in self._encoders())

    @activation_checkpointing.setter
    def activation_checkpointing(self, on: bool) -> None:
        for encoder in self._encoders():
            encoder.activation_checkpointing = on

    def forward(
        self,
        video: Tensor | None = None,
        audio: Tensor | None = None,
        text: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Features and embeddings of the modalities given.

        Args:
            video: (B, T, H, W, 3), uint8 in [0, 255] or floating point in [-1, 1].
            audio: (B, L) in [-1, 1], or (B, T, F) for a spectrogram model.
            text: (B, C, W) or (B, W) integer word ids, 0 = padding.
            generator: CPU generator of DropToken, which is active in training mode; video draws first, then audio.

        Returns:
            "video/features_pooled", "audio/features_pooled" (B, D), "text/features_pooled" (B*C, D, candidate fastest),
            and the embeddings of the head: "video/toaud", "video/totxt", "audio/tovid", "text/tovid" (the joint head
            adds "audio/totxt" and "text/toaud").

        Raises:
            ValueError: no input, or one that does not fit; the message names it.
        """
        given = {"video": video, "audio": audio, "text": None if text is None else _flat(text)}
        inputs = {modality: x for modality, x in given.items() if x is not None}
        if not inputs:
            raise ValueError("VATT: at least one of video, audio and text must be given")
        features = self._backbones(inputs, generator)
        pooled = {modality: features[modality]["features_pooled"] for modality in inputs}
        return {**{f"{modality}/features_pooled": x for modality, x in pooled.items()}, **self.head(pooled)}

    def _backbones(self, inputs: dict[str, Tensor], generator: torch.Generator | None) -> dict[str, dict[str, Tensor]]:
        if self.unified is not None:
            return self.unified.forward_packed(inputs, generator=generator)
        features = {}
        for modality, x in inputs.items():
            if modality == "text":
                features[modality] = self.text(x)
            else:
                features[modality] = (self.video if modality == "video" else self.audio)(x, generator=generator)
        return features

    def _encoders(self) -> list[Encoder]:
        return [module for module in self.modules() if isinstance(module, Encoder)]


def _flat(text: Tensor) -> Tensor:
    """(B, C, W) -> (B*C, W), the candidate fastest."""
    if text.ndim not in (2, 3):
        raise ValueError(f"text: expected (clips, candidates, words) or (clips, words), got {tuple(text.shape)}")
    return text.flatten(0, -2)
