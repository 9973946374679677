"""The modality-agnostic backbone: one Transformer for video, audio and text (paper, section 3.2).

Shapes: B batch, R sentences, W words, K kept patches, D width, P output width.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from vatt.kernels.patch_embed import add_positions
from vatt.models.config import UnifiedConfig
from vatt.models.layers import Dense, Packing
from vatt.models.positions import Positions
from vatt.models.text import AggregationToken, WordEmbedding
from vatt.models.tokens import DropToken, PatchTokens
from vatt.models.transformer import Encoder


class TextTokens(nn.Module):
    """Word vectors, GELU projection with bias, positions, aggregation token."""

    def __init__(self, config: UnifiedConfig, backend: str) -> None:
        super().__init__()
        D = config.d_model
        words = config.txt_vocab_size, config.txt_embedding_dim, config.txt_embedding_trainable
        self.embedding = WordEmbedding(*words, config.txt_embedding_reach)
        self.pre_projection = Dense(config.txt_embedding_dim, D, gelu=True, backend=backend)
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
    aggregation tokens (the paper does not mention the projections), and pass through shared layers without seeing each
    other: one after the other (`forward`) or packed into one pass (`forward_packed`), with the same result. Video and
    audio draw separate DropToken permutations; text keeps all tokens.
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
            {
                modality: Dense(D, config.d_post_proj, gelu=True, backend=backend)
                for modality in ("video", "audio", "text")
            }
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
        tokens, mask = self._tokens(modality, x, generator, kept)
        encoded, _ = self.encoder(tokens, mask)
        return self._features(modality, encoded)

    def forward_packed(
        self,
        inputs: Mapping[str, Tensor],
        *,
        generator: torch.Generator | None = None,
        kept: Mapping[str, Tensor] | None = None,
    ) -> dict[str, dict[str, Tensor]]:
        """`forward` of several modalities in one pass of the shared layers, their tokens packed one after the other.

        Args:
            inputs: modality -> signal, as in `forward`.
            generator: CPU generator of DropToken (training mode only), which draws in the order of ``inputs``.
            kept: modality -> the patches to keep, instead of drawing them; see `forward`.

        Returns:
            modality -> what `forward` returns for it.
        """
        kept = kept or {}
        parts = {modality: self._tokens(modality, x, generator, kept.get(modality)) for modality, x in inputs.items()}
        segments = tuple((tokens.shape[0], tokens.shape[1]) for tokens, _ in parts.values())
        masks = [mask for _, mask in parts.values()]
        packing = Packing(segments, tuple(mask is not None for mask in masks))
        tokens_1TD = torch.cat([tokens.flatten(0, 1) for tokens, _ in parts.values()])[None]
        mask_1T = None
        if any(packing.masked or ()):
            filled = [tokens.new_ones(tokens.shape[:2]) if mask is None else mask for tokens, mask in parts.values()]
            mask_1T = torch.cat([mask.flatten() for mask in filled])[None]
        encoded_1TD, _ = self.encoder(tokens_1TD, mask_1T, packing)
        split = encoded_1TD[0].split([count * length for count, length in segments])
        return {
            modality: self._features(modality, part.unflatten(0, segment))
            for modality, part, segment in zip(parts, split, segments, strict=True)
        }

    def _tokens(
        self, modality: str, x: Tensor, generator: torch.Generator | None, kept: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Tokens with the aggregation token first, and their mask if there is one."""
        if modality == "text":
            return self.text_tokens(x)
        if modality == "video":
            return self.video_tokens(x, generator, kept), None
        if modality == "audio":
            return self.audio_tokens(x, generator, kept), None
        raise ValueError(f"modality: {modality!r} is not one of 'video', 'audio', 'text'")

    def _features(self, modality: str, encoded: Tensor) -> dict[str, Tensor]:
        projected = self.post_projections[modality](encoded)
        return {"features_pooled": projected[:, 0], "features": projected[:, 1:]}
