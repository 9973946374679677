"""What a good user of PyTorch writes in an afternoon: Conv3d, nn.TransformerEncoder with its SDPA, a CLS token.

Against ours: all patches are embedded before half of them are dropped; the text encoder has learned positions in place
of T5's relative ones, and biases and layer norms; the heads have no batch norms.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.rivals.contrast import Contrast
from bench.rivals.tokens import ConvTokens, Signal, audio_signal, video_signal
from vatt.models.config import TextConfig, TransformerConfig, VATTConfig


def encoder(part: TransformerConfig) -> nn.TransformerEncoder:
    """PyTorch's encoder, pre-norm, with a final norm; (B, N, D) to (B, N, D)."""
    layer = nn.TransformerEncoderLayer(
        part.d_model,
        part.num_heads,
        part.d_ff,
        part.dropout_rate,
        activation="gelu",
        layer_norm_eps=part.layer_norm_epsilon,
        batch_first=True,
        norm_first=True,
    )
    norm = nn.LayerNorm(part.d_model, part.layer_norm_epsilon)
    return nn.TransformerEncoder(layer, part.num_layers, norm, enable_nested_tensor=False)


class Words(nn.Module):
    """Word vectors as wide as ours, frozen if ours are, a GELU projection, and optionally positions and CLS token."""

    def __init__(self, config: TextConfig, words: int) -> None:
        super().__init__()
        D = config.d_model
        self.table = nn.Embedding(config.vocab_size, config.d_embedding)
        self.table.weight.requires_grad_(config.trainable_embeddings)
        self.project = nn.Linear(config.d_embedding, D)
        self.token = nn.Parameter(0.02 * torch.randn(D))
        self.positions = nn.Parameter(0.02 * torch.randn(words, D)) if words else None

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """(R, W) integers -> (R, 1 + W, D), and a bool mask (R, 1 + W), True where there is a word."""
        x = F.gelu(self.project(self.table(ids)))
        if self.positions is not None:
            x = x + self.positions
        x = torch.cat([self.token.expand(len(x), 1, -1), x], dim=1)
        return x, F.pad(ids != 0, (1, 0), value=True)


class PlainText(nn.Module):
    """(R, W) word ids -> (R, D), by nn.TransformerEncoder."""

    def __init__(self, config: VATTConfig) -> None:
        super().__init__()
        self.words = Words(config.text, config.input.words)
        self.dropout = nn.Dropout(config.text.dropout_rate)
        self.encoder = encoder(config.text)

    def forward(self, ids: Tensor) -> Tensor:
        x, present = self.words(ids)
        return self.encoder(self.dropout(x), src_key_padding_mask=~present)[:, 0]


class PlainSignal(nn.Module):
    """Video or sound -> (B, D)."""

    def __init__(self, signal: Signal) -> None:
        super().__init__()
        self.tokens = ConvTokens(signal)
        self.encoder = encoder(signal.encoder)

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder(self.tokens(x))[:, 0]


class Pretrained(nn.Module):
    """Three encoders and the losses: uint8 video (B, T, H, W, 3), sound (B, L), word ids (B, C, W) -> scalar loss."""

    def __init__(self, config: VATTConfig, video: nn.Module, audio: nn.Module, text: nn.Module) -> None:
        super().__init__()
        self.video, self.audio, self.text = video, audio, text
        self.contrast = Contrast(config)

    def forward(self, video: Tensor, audio: Tensor, text: Tensor) -> Tensor:
        return self.contrast(self.video(video), self.audio(audio), self.text(text.flatten(0, 1)))


def plain_pytorch(config: VATTConfig) -> Pretrained:
    """The whole model; in training mode DropToken and dropout are on."""
    video, audio = PlainSignal(video_signal(config)), PlainSignal(audio_signal(config))
    return Pretrained(config, video, audio, PlainText(config))
