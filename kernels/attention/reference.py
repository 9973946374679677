"""Attention in plain PyTorch, with its weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..dropout import dropout, keep_scale, tile_keep_mask
from .varlen import Place

# What is added to the score of a masked key. The official code adds -1e9, which in float32 swallows every score that it
# meets, so that the weights of a row without a key to see are equal; this does so in float64, too.
MASKED = -1e30


def attention(
    q_BNHE: Tensor,
    k_BNHE: Tensor,
    v_BNHE: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    scale: float,
    dropout_p: float,
    seed: Tensor | None = None,
    place: Place | None = None,
) -> tuple[Tensor, Tensor]:
    """Output (B, N, H, E) and weights (B, H, N, N). Scores and softmax are at least float32."""
    at_least_fp32 = torch.promote_types(q_BNHE.dtype, torch.float32)
    scores_BHNN = torch.einsum("bnhe,bmhe->bhnm", q_BNHE * scale, k_BNHE).to(at_least_fp32)
    added = additive(mask, bias, at_least_fp32)
    if added is not None:
        scores_BHNN = scores_BHNN + added
    weights_BHNN = scores_BHNN.softmax(-1).to(q_BNHE.dtype)
    if seed is None:
        weights_BHNN = dropout(weights_BHNN, dropout_p)
    elif dropout_p > 0:
        kept_BHNN = keep_mask(seed, weights_BHNN.shape, dropout_p, place)
        weights_BHNN = torch.where(kept_BHNN, weights_BHNN * keep_scale(dropout_p), 0.0)
    return torch.einsum("bhnm,bmhe->bnhe", weights_BHNN, v_BNHE), weights_BHNN


def additive(mask: Tensor | None, bias: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Mask and bias as one term of the scores, broadcast to (B, H, N, N); None when there is neither."""
    added = None if bias is None else bias[None].to(dtype)
    if mask is not None:
        low = max(MASKED, torch.finfo(dtype).min)
        lowered_B11N = (mask == 0).to(dtype)[:, None, None, :] * low
        added = lowered_B11N if added is None else added + lowered_B11N
    return added


def keep_mask(seed: Tensor, shape: Sequence[int], p: float, place: Place | None = None) -> Tensor:
    """The kernels' dropout mask of weights of ``shape`` (B, H, N, N); ``place``: where these B sequences lie among all
    (None: they are all)."""
    B, H, N, _ = shape
    first, total = place or (0, B * N)
    tokens = torch.arange(N, device=seed.device)
    heads_H111 = torch.arange(H, device=seed.device)[:, None, None] * total
    starts_B1111 = first + N * torch.arange(B, device=seed.device)[:, None, None, None]
    return tile_keep_mask(seed, starts_B1111 + heads_H111, tokens[:, None], tokens, p)
