"""Zero-shot retrieval: similarities between two sets of embeddings, ranks, recall (official utils/eval/measures.py).

Shapes: Q queries, V videos, D width, n windows of a video (window index fastest).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


class EvaluationError(ValueError):
    """Embeddings from which nothing can be said: none at all, or values that are not finite."""


@dataclass(frozen=True)
class Retrieval:
    """Recall at 1, 5 and 10 as shares (0 to 1), the median rank (1 is best) and the number of queries."""

    r1: float
    r5: float
    r10: float
    median_rank: float
    n: int


def similarity(
    query_QD: Tensor, video_VD: Tensor, windows: int = 1, *, average_embeddings: bool = True, normalize: bool = True
) -> Tensor:
    """Dot products (Q, V).

    Args:
        video_VD: (V * windows, D).
        average_embeddings: average the embeddings of a video's windows before the product; else the products after.
        normalize: L2-normalise: after averaging, or each embedding. With one window and ``average_embeddings`` the
            official code does not normalise; neither does this.

    Raises:
        ValueError: the rows are no multiple of ``windows``. EvaluationError: a value is not finite.
    """
    if len(video_VD) % windows:
        raise ValueError(f"video_VD: {len(video_VD)} rows are no multiple of {windows} windows")
    for name, x in (("query_QD", query_QD), ("video_VD", video_VD)):
        if not torch.isfinite(x).all():
            raise EvaluationError(f"{name}: holds values that are not finite")
    if average_embeddings:
        if windows > 1:
            video_VD = video_VD.unflatten(0, (-1, windows)).mean(1)
            if normalize:
                query_QD, video_VD = _unit(query_QD), _unit(video_VD)
        return query_QD @ video_VD.T
    if normalize:
        query_QD, video_VD = _unit(query_QD), _unit(video_VD)
    return (query_QD @ video_VD.T).unflatten(1, (-1, windows)).mean(2)


def _unit(x_ND: Tensor) -> Tensor:
    return F.normalize(x_ND, dim=-1)


def ranks(similarity_QV: Tensor, target_Q: Tensor | None = None) -> Tensor:
    """The place (1 is best) of each query's own video in descending similarity; int64 (Q,).

    ``target_Q`` holds the index of that video, by default the query's own. Videos that are exactly as similar come
    before it, so that embeddings which are all alike score nothing.
    """
    if target_Q is None:
        target_Q = torch.arange(len(similarity_QV), device=similarity_QV.device)
    own_Q1 = similarity_QV.gather(1, target_Q[:, None])
    return (similarity_QV >= own_Q1).sum(1)


def retrieval(similarity_QV: Tensor, target_Q: Tensor | None = None) -> Retrieval:
    """Recall and median rank of the queries' own videos. Raises ValueError without a query."""
    if similarity_QV.numel() == 0:
        raise ValueError("similarity_QV: no query or no video")
    place_Q = ranks(similarity_QV, target_Q).double()
    r1, r5, r10 = ((place_Q <= k).double().mean().item() for k in (1, 5, 10))
    return Retrieval(r1, r5, r10, place_Q.quantile(0.5).item(), len(place_Q))


def chance(n_queries: int, n_videos: int) -> Retrieval:
    """What a random order of the videos is expected to reach."""
    r1, r5, r10 = (min(k / n_videos, 1.0) for k in (1, 5, 10))
    return Retrieval(r1, r5, r10, (n_videos + 1) / 2, n_queries)
