"""Built from Hugging Face's transformers: VideoMAE, its encoder layers on patches of sound, and T5; all with SDPA.

Against ours: all patches are embedded before half of them are dropped; VideoMAE has fixed positions, no CLS token (its
tokens are averaged) and no dropout of the positions; its layers, also those for sound, have no bias of the keys and no
dropout inside the MLP; T5 has RMS norms throughout; the heads have no batch norms.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bench.rivals.packages import need
from bench.rivals.plain import Pretrained, Words
from bench.rivals.tokens import ConvTokens, Signal, audio_signal, video_signal
from vatt.models.config import TransformerConfig, VATTConfig

ATTENTION = "sdpa"


class MaskedVideo(nn.Module):
    """VideoMAEModel with bool_masked_pos for DropToken: uint8 (B, T, H, W, 3) -> (B, D)."""

    def __init__(self, config: VATTConfig) -> None:
        super().__init__()
        part = config.video
        sizes = dict(image_size=config.input.size, patch_size=part.spatial_patch_size)
        sizes |= dict(num_frames=config.input.frames, tubelet_size=part.temporal_patch_size)
        options = need("transformers", "VideoMAEConfig")(**sizes, use_mean_pooling=False, **_encoder(part))
        self.model = need("transformers", "VideoMAEModel")(options)
        signal = video_signal(config)
        self.total, self.kept = signal.total, signal.kept

    def forward(self, video: Tensor) -> Tensor:
        dtype = next(self.model.parameters()).dtype
        frames = video.permute(0, 1, 4, 2, 3).to(dtype).sub_(127.5).div_(127.5)
        return self.model(frames, bool_masked_pos=self._mask(video)).last_hidden_state.mean(1)

    def _mask(self, video: Tensor) -> Tensor | None:
        """(B, N), True for the patches that are left out; one draw a batch."""
        if not self.training or self.kept == self.total:
            return None
        mask = torch.ones(self.total, dtype=torch.bool, device=video.device)
        mask[torch.randperm(self.total, device=video.device)[: self.kept]] = False
        return mask.expand(len(video), -1)


class Sound(nn.Module):
    """Patches of the waveform through the encoder layers of VideoMAE, those of a ViT: (B, L) -> (B, D)."""

    def __init__(self, signal: Signal) -> None:
        super().__init__()
        part = signal.encoder
        layers = need("transformers.models.videomae.modeling_videomae", "VideoMAEEncoder")
        self.tokens = ConvTokens(signal)
        self.encoder = layers(need("transformers", "VideoMAEConfig")(**_encoder(part)))
        self.norm = nn.LayerNorm(part.d_model, part.layer_norm_epsilon)

    def forward(self, audio: Tensor) -> Tensor:
        return self.norm(self.encoder(self.tokens(audio)).last_hidden_state)[:, 0]


class Sentences(nn.Module):
    """T5EncoderModel on word vectors as wide as ours: (R, W) word ids -> (R, D)."""

    def __init__(self, config: VATTConfig) -> None:
        super().__init__()
        part = config.text
        self.words = Words(part, 0)
        options = need("transformers", "T5Config")(
            vocab_size=2,  # its own table is not used
            d_model=part.d_model,
            d_kv=part.d_kv,
            d_ff=part.d_ff,
            num_layers=part.num_layers,
            num_heads=part.num_heads,
            relative_attention_num_buckets=part.num_relative_buckets,
            relative_attention_max_distance=part.max_relative_distance,
            dropout_rate=part.dropout_rate,
            layer_norm_epsilon=part.layer_norm_epsilon,
            feed_forward_proj="gelu",
            attn_implementation=ATTENTION,
        )
        self.model = need("transformers", "T5EncoderModel")(options)
        self.model.get_input_embeddings().weight.requires_grad_(False)

    def forward(self, ids: Tensor) -> Tensor:
        x, present = self.words(ids)
        return self.model(inputs_embeds=x, attention_mask=present.long()).last_hidden_state[:, 0]


def _encoder(part: TransformerConfig) -> dict[str, Any]:
    return dict(
        hidden_size=part.d_model,
        num_hidden_layers=part.num_layers,
        num_attention_heads=part.num_heads,
        intermediate_size=part.d_ff,
        hidden_act="gelu",
        hidden_dropout_prob=part.dropout_rate,
        attention_probs_dropout_prob=part.dropout_rate,
        layer_norm_eps=part.layer_norm_epsilon,
        attn_implementation=ATTENTION,
    )


def transformers_model(config: VATTConfig) -> Pretrained:
    """The whole model; in training mode DropToken and dropout are on.

    Raises:
        ImportError: no transformers.
    """
    return Pretrained(config, MaskedVideo(config), Sound(audio_signal(config)), Sentences(config))
