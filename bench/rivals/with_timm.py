"""Built from timm: its Blocks and its PatchDropout behind convolutions; the text encoder is PyTorch's.

Against ours: as `bench.rivals.plain`, and PatchDropout keeps other patches for each item, as many as ours. Dropout of
the positions is before it, on all patches, as in timm's VisionTransformer.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from bench.rivals.packages import need
from bench.rivals.plain import PlainText, Pretrained
from bench.rivals.signals import probability
from bench.rivals.tokens import ConvTokens, Signal, audio_signal, video_signal
from vatt.models.config import VATTConfig


class TimmSignal(nn.Module):
    """Video or sound -> (B, D)."""

    def __init__(self, signal: Signal) -> None:
        super().__init__()
        part = signal.encoder
        self.tokens = ConvTokens(signal)
        rate = probability(signal.kept, signal.total)
        self.drop = need("timm.layers", "PatchDropout")(rate, num_prefix_tokens=1)
        norm = partial(nn.LayerNorm, eps=part.layer_norm_epsilon)
        block = need("timm.models.vision_transformer", "Block")
        options = dict(mlp_ratio=part.d_ff / part.d_model, qkv_bias=True, norm_layer=norm)
        options |= dict(proj_drop=part.dropout_rate, attn_drop=part.dropout_rate)
        layers = (block(part.d_model, part.num_heads, **options) for _ in range(part.num_layers))
        self.blocks, self.norm = nn.Sequential(*layers), norm(part.d_model)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.tokens.dropout(self.tokens.embedded(x))
        tokens = torch.cat([self.tokens.token.expand(len(tokens), 1, -1), tokens], dim=1)
        return self.norm(self.blocks(self.drop(tokens)))[:, 0]


def timm_model(config: VATTConfig) -> Pretrained:
    """The whole model; in training mode DropToken and dropout are on.

    Raises:
        ImportError: no timm, or no torchvision, which it needs.
    """
    video, audio = TimmSignal(video_signal(config)), TimmSignal(audio_signal(config))
    return Pretrained(config, video, audio, PlainText(config))
