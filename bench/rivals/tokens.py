"""Tokens of video and sound as they are usually made: a strided convolution over all patches, then DropToken."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bench.rivals.signals import channels_first
from vatt.analysis.flops import tokens
from vatt.models.config import TransformerConfig, VATTConfig


@dataclass(frozen=True)
class Signal:
    """What becomes tokens: channels, patch, encoder, number of patches and of those that DropToken keeps."""

    channels: int
    patch: tuple[int, ...]
    encoder: TransformerConfig
    total: int
    kept: int


def video_signal(config: VATTConfig) -> Signal:
    part, count = config.video, tokens(config)["video"]
    patch = (part.temporal_patch_size, part.spatial_patch_size, part.spatial_patch_size)
    return Signal(3, patch, part, count.total, count.kept)


def audio_signal(config: VATTConfig) -> Signal:
    count = tokens(config)["audio"]
    return Signal(1, (config.waveform.temporal_patch_size,), config.waveform, count.total, count.kept)


class ConvTokens(nn.Module):
    """Conv3d or Conv1d, learned positions, the kept patches (one draw a batch, in training), dropout, CLS token."""

    def __init__(self, signal: Signal) -> None:
        super().__init__()
        D = signal.encoder.d_model
        conv = nn.Conv3d if len(signal.patch) == 3 else nn.Conv1d
        self.embed = conv(signal.channels, D, signal.patch, signal.patch)  # type: ignore[arg-type]
        self.positions = nn.Parameter(0.02 * torch.randn(signal.total, D))
        self.token = nn.Parameter(0.02 * torch.randn(D))
        self.dropout = nn.Dropout(signal.encoder.position_dropout_rate)
        self.kept = signal.kept

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, H, W, 3) uint8 or (B, L) -> (B, 1 + K, D)."""
        x = self.dropout(self.drop(self.embedded(x)))
        return torch.cat([self.token.expand(len(x), 1, -1), x], dim=1)

    def embedded(self, x: Tensor) -> Tensor:
        """All patches with their positions, (B, N, D)."""
        x = channels_first(x, self.token.dtype)
        return self.embed(x).flatten(2).transpose(1, 2) + self.positions

    def drop(self, x: Tensor) -> Tensor:
        if not self.training or self.kept == x.shape[1]:
            return x
        return x[:, torch.randperm(x.shape[1], device=x.device)[: self.kept]]
