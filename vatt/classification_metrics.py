"""Classification metrics: accuracy, mean average precision, AUC, d-prime (official utils/eval/measures.py).

Shapes: B samples, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def accuracy(scores: Tensor, labels: Tensor, k: Sequence[int] = (1, 5)) -> dict[str, float]:
    """Share of samples whose label is among the k largest scores.

    Args:
        scores: (B, K).
        labels: int64 (B,) or (B, 1).

    Returns:
        "top1", "top5", ... for each ``k``; a k above K counts as K.
    """
    order_BK = scores.argsort(dim=1, descending=True)
    hits_BK = order_BK == labels.reshape(-1, 1)
    return {f"top{n}": hits_BK[:, :n].any(1).double().mean().item() for n in k}


def multilabel(scores: Tensor, targets: Tensor) -> dict[str, float]:
    """Mean average precision, mean area under the ROC curve, and mean d-prime over classes.

    Args:
        scores: (B, K), any monotonic confidence.
        targets: (B, K), 1 for the classes of a sample and 0 for others.

    Returns:
        "mAP", "AUC" and "d-prime", see `d_prime`.

    Raises:
        ValueError: a class that no sample, or every sample, has: its AUC is undefined.
    """
    if scores.shape != targets.shape or scores.ndim != 2:
        raise ValueError(f"targets: expected the shape of scores {tuple(scores.shape)}, got {tuple(targets.shape)}")
    positive = targets > 0
    undefined = (positive.all(0) | ~positive.any(0)).nonzero().flatten().tolist()
    if undefined:
        raise ValueError(f"targets: classes {undefined[:10]} have no positive or no negative sample")
    columns = zip(scores.T, positive.T, strict=True)
    precisions = [_average_precision(*_curve(score.double(), own)) for score, own in columns]
    auc_K = auc_by_class(scores, targets)
    return {"mAP": sum(precisions) / len(precisions), "AUC": auc_K.mean().item(), "d-prime": d_prime(auc_K)}


def auc_by_class(scores: Tensor, targets: Tensor) -> Tensor:
    """float64 (K,) areas under the ROC curves; each class must have samples with and without it."""
    aucs = [_auc(*_curve(score.double(), target > 0)) for score, target in zip(scores.T, targets.T, strict=True)]
    return torch.tensor(aucs, dtype=torch.float64)


def d_prime(auc_K: Tensor) -> float:
    """Mean over classes of sqrt(2) * inverse normal CDF of the class' AUC; infinite where one is 0 or 1."""
    return (math.sqrt(2) * torch.special.ndtri(auc_K)).mean().item()


def _curve(scores: Tensor, positive: Tensor) -> tuple[Tensor, Tensor]:
    """False and true positives above each distinct threshold, from the highest; equal scores count together."""
    values, order = scores.sort(descending=True)
    found = positive[order].double()
    last_of_ties = torch.cat([values[1:] != values[:-1], values.new_ones(1, dtype=torch.bool)])
    true = found.cumsum(0)[last_of_ties]
    false = (1 - found).cumsum(0)[last_of_ties]
    return false, true


def _average_precision(false: Tensor, true: Tensor) -> float:
    """Sum over thresholds of the step in recall times the precision."""
    steps = torch.diff(true, prepend=true.new_zeros(1)) / true[-1]
    return (steps * true / (true + false)).sum().item()


def _auc(false: Tensor, true: Tensor) -> float:
    """Area under the ROC curve by the trapezoid rule."""
    zero = false.new_zeros(1)
    return (torch.trapezoid(torch.cat([zero, true]), torch.cat([zero, false])) / (true[-1] * false[-1])).item()
