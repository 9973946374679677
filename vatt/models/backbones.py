"""Backbones of one modality: video ViT, waveform WaT, spectrogram SpT.

Shapes: B batch, T/H/W time/height/width, L samples, F mel bins, K kept patches, D width, P output width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vatt.models.config import SpectrogramConfig, VideoConfig, WaveformConfig
from vatt.models.layers import Dense
from vatt.models.positions import Positions, SpectrogramPositions
from vatt.models.tokens import DropToken, PatchTokens
from vatt.models.transformer import Encoder


class Backbone(nn.Module):
    """Tokens, encoder, and an optional GELU projection of every output token."""

    tokens: PatchTokens

    def __init__(
        self, config: VideoConfig | WaveformConfig | SpectrogramConfig, tokens: PatchTokens, backend: str
    ) -> None:
        super().__init__()
        self.tokens = tokens
        self.encoder = Encoder(config, backend)
        self.post_projection: Dense | None = None
        if config.post_projection:
            self.post_projection = Dense(config.d_model, config.d_post_proj, gelu=True, backend=backend)
        self.width = config.d_post_proj if config.post_projection else config.d_model

    def forward(
        self, x: Tensor, *, generator: torch.Generator | None = None, kept: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Features of a batch.

        Args:
            x: the signal, see the subclass.
            generator: CPU generator of DropToken (training mode only); None is PyTorch's default one.
            kept: int64 (K,) or (B, K), the patches to keep, instead of drawing them.

        Returns:
            "features_pooled" (B, P): the aggregation token; "features" (B, K, P): the patches, in the order kept.

        Raises:
            ValueError: an input of the wrong shape or type, or with fewer patches than DropToken keeps.
        """
        encoded, _ = self.encoder(self.tokens(x, generator, kept))
        if self.post_projection is not None:
            encoded = self.post_projection(encoded)
        return {"features_pooled": encoded[:, 0], "features": encoded[:, 1:]}


class VideoBackbone(Backbone):
    """Vision Transformer on voxels (official modeling/backbones/video/vitx3d.py).

    Reads (B, T, H, W, 3): uint8 in [0, 255], or floating point in [-1, 1].
    """

    def __init__(self, config: VideoConfig, backend: str = "auto") -> None:
        t, s = config.temporal_patch_size, config.spatial_patch_size
        buckets = {
            "temporal": config.max_temporal_buckets,
            "vertical": config.max_vertical_buckets,
            "horizontal": config.max_horizontal_buckets,
        }
        count = config.max_temporal_buckets * config.max_vertical_buckets * config.max_horizontal_buckets
        tokens = PatchTokens(
            (t, s, s),
            3,
            Positions(buckets, config.d_model, backend),
            d_model=config.d_model,
            position_dropout=config.position_dropout_rate,
            pre_projection=config.pre_projection,
            drop_token=DropToken(config, count, "video"),
            name="video",
            backend=backend,
        )
        super().__init__(config, tokens, backend)


class WaveformBackbone(Backbone):
    """Waveform Transformer (official modeling/backbones/audio/autx1d.py). Reads (B, L), in [-1, 1]."""

    def __init__(self, config: WaveformConfig, backend: str = "auto") -> None:
        buckets = {"temporal": config.max_temporal_buckets}
        tokens = PatchTokens(
            (config.temporal_patch_size,),
            0,
            Positions(buckets, config.d_model, backend),
            d_model=config.d_model,
            position_dropout=config.position_dropout_rate,
            pre_projection=config.pre_projection,
            drop_token=DropToken(config, config.max_temporal_buckets, "waveform"),
            name="audio",
            backend=backend,
        )
        super().__init__(config, tokens, backend)


class SpectrogramBackbone(Backbone):
    """Spectrogram Transformer (official modeling/backbones/audio/autx2d.py). Reads (B, T, F); it has no DropToken."""

    def __init__(self, config: SpectrogramConfig, backend: str = "auto") -> None:
        buckets = {"temporal": config.max_temporal_buckets, "spectoral": config.max_spectoral_buckets}
        tokens = PatchTokens(
            (config.temporal_patch_size, config.spectoral_patch_size),
            0,
            SpectrogramPositions(buckets, config.d_model, backend),
            d_model=config.d_model,
            position_dropout=config.position_dropout_rate,
            pre_projection=config.pre_projection,
            name="audio",
            backend=backend,
        )
        super().__init__(config, tokens, backend)
