"""Text models: T5, BERT and linear, on frozen or trained word embeddings.

Shapes: R sentences (clips times candidates), W words, D width, E width of the word embeddings.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vatt.kernels.patch_embed import add_positions
from vatt.models.config import TextConfig
from vatt.models.layers import Dense, embedding_uniform, glorot_normal_vector
from vatt.models.positions import Positions
from vatt.models.transformer import Encoder


class WordEmbedding(nn.Module):
    """A table of word vectors. Row 0, the padding, is an ordinary row."""

    def __init__(self, vocab_size: int, dim: int, trainable: bool, reach: float = 0.05) -> None:
        super().__init__()
        self.weight = nn.Parameter(embedding_uniform(torch.empty(vocab_size, dim), reach), requires_grad=trainable)

    def forward(self, ids: Tensor) -> Tensor:
        """(R, W) integers -> (R, W, E).

        Raises:
            ValueError: ids that are not (R, W) integers.
        """
        if ids.ndim != 2 or ids.is_floating_point() or ids.dtype == torch.bool:
            raise ValueError(f"text: expected integer word ids (sentences, words), got {tuple(ids.shape)} {ids.dtype}")
        return F.embedding(ids, self.weight)


class AggregationToken(nn.Module):
    """Prepends a learned vector, always unmasked, to (R, W, D) tokens."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(glorot_normal_vector(torch.empty(dim)))

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """(R, W, D) and (R, W) -> (R, 1 + W, D) and (R, 1 + W)."""
        return add_positions(x, positions=None, token=self.weight), F.pad(mask, (1, 0), value=1)


class TextBackbone(nn.Module):
    """A text model (official modeling/backbones/text/factory.py) of the configured kind.

    t5: an aggregation token of the width of the word embeddings, a GELU projection without bias, T5 encoder.
    bert: projection, position table (16 buckets by default), the encoder's own aggregation token.
    bert_small: both aggregation tokens, post-norm; the first one gets a position, the second is the sentence. So the
        words have one extra leading row. (As in the official configuration.)
    linear: a dense layer with ReLU of each word; the sentence is the maximum over all positions, padding included.

    The paper describes one learned matrix from one-hot words; the official code has a 300-wide table, frozen by
    default, and a GELU projection.
    """

    def __init__(self, config: TextConfig, backend: str = "auto") -> None:
        super().__init__()
        if config.kind == "bert_small":
            config = replace(config, pre_norm=False)
        self.kind = config.kind
        self.width = config.d_model
        words = config.vocab_size, config.d_embedding, config.trainable_embeddings
        self.embedding = WordEmbedding(*words, config.embedding_reach)
        self.linear = Dense(config.d_embedding, config.d_model) if config.kind == "linear" else None
        if self.linear is not None:
            return
        first = config.kind in ("t5", "bert_small")
        self.agg_token = AggregationToken(config.d_embedding) if first else None
        self.pre_projection = Dense(config.d_embedding, config.d_model, bias=False, gelu=True, backend=backend)
        self.positions: Positions | None = None
        self.encoder_agg_token: AggregationToken | None = None
        if config.kind != "t5":
            self.positions = Positions({"temporal": config.max_temporal_buckets}, config.d_model, backend)
            self.encoder_agg_token = AggregationToken(config.d_model)
        self.position_dropout = config.position_dropout_rate
        self.encoder = Encoder(config, backend)

    def forward(self, ids: Tensor) -> dict[str, Tensor]:
        """Features of sentences.

        Args:
            ids: (R, W) integers, 0 = padding, which is masked.

        Returns:
            "features_pooled" (R, D): the sentence; "features" (R, W, D): its words (bert_small: 1 + W rows).

        Raises:
            ValueError: ids that are not (R, W) integers.
        """
        x = self.embedding(ids)
        if self.linear is not None:
            words = F.relu(self.linear(x))
            return {"features_pooled": words.amax(1), "features": words}
        mask = (ids != 0).to(x.dtype)
        if self.agg_token is not None:
            x, mask = self.agg_token(x, mask)
        x = self.pre_projection(x)
        if self.positions is not None and self.encoder_agg_token is not None:
            dropout_p = self.position_dropout if self.training else 0.0
            x = add_positions(x, positions=self.positions((x.shape[1],)), dropout_p=dropout_p)
            x, mask = self.encoder_agg_token(x, mask)
        encoded, _ = self.encoder(x, mask)
        return {"features_pooled": encoded[:, 0], "features": encoded[:, 1:]}
