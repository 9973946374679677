"""The modality-agnostic backbone: one Transformer for video, audio and text (paper, section 3.2).

Shapes: B batch, R sentences, W words, K kept patches, D width, P output width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vatt.kernels.patch_embed import add_positions
from vatt.models.config import UnifiedConfig
from vatt.models.drop_token import DropToken
from vatt.models.layers import Dense
from vatt.models.positions import Positions
from vatt.models.text import AggregationToken, WordEmbedding
from vatt.models.tokens import PatchTokens
from vatt.models.transformer import Encoder


class TextTokens(nn.Module):
    """Word vectors, GELU projection with bias, positions, aggregation token."""

    def __init__(self, config: UnifiedConfig, backend: str) -> None:
        super().__init__()
        D = config.d_model
        words = config.txt_vocab_size, config.txt_embedding_dim, config.txt_embedding_trainable
        self.embedding = WordEmbedding(*words, config.txt_embedding_reach)
        self.pre_projection = Dense(config.txt_embedding_dim, D, gelu=True)
        self.positions = Positions({"temporal": config.max_txt_temporal_buckets}, D, backend)
        self.agg_token = AggregationToken(D)
        self.position_dropout = config.position_dropout_rate

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """(R, W) ids -> tokens (R, 1 + W, D) and their mask (R, 1 + W)."""
        x = self.pre_projection(self.embedding(ids))
        dropout_p = self.position_dropout if self.training else 0.0
        x = add_positions(x, positions=self.positions((x.shape[1],)), dropout_p=dropout_p)
        return self.agg_token(x, (ids != 0).to(x.dtype))


class UnifiedBackbone(nn.Module):
    """VATT-MA (official modeling/backbones/unified/uvatt.py).

    The modalities have their own tokenisers, GELU projections before and after the Transformer, positions and
    aggregation tokens (the paper does not mention the projections), and pass separately through shared layers. Video
    and audio draw separate DropToken permutations; text keeps all tokens.
    """

    def __init__(self, config: UnifiedConfig, backend: str = "auto") -> None:
        super().__init__()
        D, rate = config.d_model, config.position_dropout_rate
        t, s = config.vid_temporal_patch_size, config.vid_spatial_patch_size
        T, S, A = config.max_vid_temporal_buckets, config.max_vid_spatial_buckets, config.max_aud_temporal_buckets
        self.video_tokens = PatchTokens(
            (t, s, s),
            3,
            Positions({"temporal": T, "vertical": S, "horizontal": S}, D, backend),
            d_model=D,
            position_dropout=rate,
            pre_projection=True,
            drop_token=DropToken(config, T * S * S, "unified"),
            name="video",
            backend=backend,
        )
        self.audio_tokens = PatchTokens(
            (config.aud_temporal_patch_size,),
            0,
            Positions({"temporal": A}, D, backend),
            d_model=D,
            position_dropout=rate,
            pre_projection=True,
            drop_token=DropToken(config, A, "unified"),
            name="audio",
            backend=backend,
        )
        self.text_tokens = TextTokens(config, backend)
        self.encoder = Encoder(config, backend)
        self.post_projections = nn.ModuleDict(
            {modality: Dense(D, config.d_post_proj, gelu=True) for modality in ("video", "audio", "text")}
        )
        self.width = config.d_post_proj

    def forward(
        self, modality: str, x: Tensor, *, generator: torch.Generator | None = None, kept: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Features of one modality.

        Args:
            modality: "video", "audio" or "text".
            x: video (B, T, H, W, 3), audio (B, L), or word ids (R, W), 0 = padding.
            generator: CPU generator of DropToken (training mode only); None is PyTorch's default one.
            kept: int64 (K,) or (B, K), the patches to keep, instead of drawing them; not for text.

        Returns:
            "features_pooled" (B, P) and "features" (B, K, P).

        Raises:
            ValueError: an unknown modality, or an input that does not fit; the message names it.
        """
        mask = None
        if modality == "text":
            tokens, mask = self.text_tokens(x)
        elif modality == "video":
            tokens = self.video_tokens(x, generator, kept)
        elif modality == "audio":
            tokens = self.audio_tokens(x, generator, kept)
        else:
            raise ValueError(f"modality: {modality!r} is not one of 'video', 'audio', 'text'")
        encoded, _ = self.encoder(tokens, mask)
        projected = self.post_projections[modality](encoded)
        return {"features_pooled": projected[:, 0], "features": projected[:, 1:]}
