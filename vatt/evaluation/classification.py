"""Scores of clips by a classifier, and what they are worth: accuracy, mean average precision, AUC, d-prime.

The metrics are those of official utils/eval/measures.py.

Shapes: N clips, V views of a clip, B samples, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vatt.data.clips import Clip
from vatt.data.config import DataConfig
from vatt.data.evaluation_loader import view_batches
from vatt.data.labels import Classes
from vatt.data.samples import Views
from vatt.errors import UserError
from vatt.evaluation import evaluating
from vatt.models.classifier import Classifier, average_views

Table = dict[str, Any]


class ScoreError(UserError, RuntimeError):
    """Scores that cannot be used: not finite, a clip scored twice, or none at all. The message says which."""


@dataclass
class Scores:
    """Logits of the clips that could be read, averaged over their views.

    Attributes:
        numbers: of the clips in the list that they come from, N.
        logits_NK: float32, on the CPU.
        skipped: a record {file, field, reason, index} of each clip that could not be read.
    """

    numbers: list[int]
    logits_NK: Tensor
    skipped: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def join(cls, parts: Sequence[Scores]) -> Scores:
        """The scores of several ranks in the order of the numbers.

        Raises:
            ScoreError: a clip was scored twice.
        """
        numbers = torch.tensor([number for part in parts for number in part.numbers], dtype=torch.int64)
        order = numbers.argsort()
        logits = torch.cat([part.logits_NK for part in parts])
        twice = [int(a) for a, b in zip(numbers[order], numbers[order][1:], strict=False) if a == b]
        if twice:
            raise ScoreError(f"clips {twice[:5]} were scored twice")
        skipped = sorted((record for part in parts for record in part.skipped), key=lambda record: record["index"])
        return cls(numbers[order].tolist(), logits[order], skipped)


def score_clips(
    model: Classifier,
    clips: Sequence[Clip],
    views: Views,
    config: DataConfig,
    *,
    device: torch.device | str = "cpu",
    batch_size: int = 8,
    numbers: Sequence[int] | None = None,
    on_batch: Callable[[int], object] = lambda done: None,
) -> Scores:
    """Scores clips in evaluation mode, and puts the mode back.

    Args:
        model: made by `Classifier.from_config`, on ``device``.
        batch_size: clips of a batch, each with all of its views.
        numbers: which of the clips; None for all. A rank of several takes its own share.
        on_batch: called with the number of clips done.

    Raises:
        ScoreError: a logit is not finite; the message names the clip.
    """
    assert model.config is not None, "the model has no configuration; make it with Classifier.from_config"
    modality, spec = model.config.modality, model.config.input
    numbers = range(len(clips)) if numbers is None else numbers
    found = Scores([], torch.empty(0, model.config.num_classes))
    parts = [found.logits_NK]
    with evaluating(model):
        for batch in view_batches(clips, numbers, views, modality, spec, config, batch_size=batch_size):
            found.skipped += batch["skipped"]
            if len(batch["index"]):
                of_BV = batch["of_view"]
                rows = model(batch["x"].to(device))[of_BV.flatten().to(device)]  # a row may be several views
                logits = average_views(rows, of_BV.shape[1]).float().cpu()
                for number, row in zip(batch["index"].tolist(), logits, strict=True):
                    if not torch.isfinite(row).all():
                        raise ScoreError(f"{clips[number].video}: the model gives logits that are not finite")
                found.numbers += batch["index"].tolist()
                parts.append(logits)
            on_batch(len(found.numbers) + len(found.skipped))
    found.logits_NK = torch.cat(parts)
    return found


def classification_table(scores: Scores, clips: Sequence[Clip], classes: Classes) -> Table:
    """What the scores are worth, ready for JSON.

    Returns:
        "n" clips that were scored and "skipped" ones that could not be read; "classes", and "without" a clip among
        those scored (by name). One label per clip: "top1", "top5" and "chance" (share of the largest class). Several:
        "mAP", "AUC", "d-prime" over the classes that some clips have and some have not; "left_out" names the others.
        "infinite" names those whose AUC is 0 or 1, and so whose d-prime is infinite: it is the mean over the others
        (None if there are none).

    Raises:
        ScoreError: no clip could be scored. LabelError: a label cannot be used.
    """
    if not scores.numbers:
        raise ScoreError(f"no clip could be scored; {len(scores.skipped)} could not be read")
    target_NK = torch.stack([classes.target(clips[number]) for number in scores.numbers])
    count_K = target_NK.sum(0)
    table: Table = {
        "n": len(scores.numbers),
        "skipped": len(scores.skipped),
        "classes": len(classes.names),
        "without": [name for name, count in zip(classes.names, count_K.tolist(), strict=True) if not count],
    }
    if not classes.multi:
        shares = accuracy(scores.logits_NK, target_NK.argmax(1))
        return {**shares, "chance": float(count_K.max() / len(target_NK)), **table}
    usable_K = (count_K > 0) & (count_K < len(target_NK))
    if not usable_K.any():
        raise ScoreError("no class has both clips with and without it; mAP and AUC are not defined")
    usable = scores.logits_NK[:, usable_K], target_NK[:, usable_K]
    found: Table = dict(multilabel(*usable))
    by_class_K = auc_by_class(*usable)
    finite_K = (by_class_K > 0) & (by_class_K < 1)
    names = [name for name, usable in zip(classes.names, usable_K.tolist(), strict=True) if usable]
    found["d-prime"] = d_prime(by_class_K[finite_K]) if finite_K.any() else None  # JSON knows no infinity
    infinite = [name for name, finite in zip(names, finite_K.tolist(), strict=True) if not finite]
    left_out = [name for name, usable in zip(classes.names, usable_K.tolist(), strict=True) if not usable]
    return {**found, **table, "left_out": left_out, "infinite": infinite}


def per_class(scores: Scores, clips: Sequence[Clip], classes: Classes) -> list[tuple[str, float, int]]:
    """With one label per clip: (class, share of its clips that score highest in it, clips), the best class first."""
    wanted = torch.tensor([classes.numbers(clips[number])[0] for number in scores.numbers])
    hit = scores.logits_NK.argmax(1) == wanted
    found = []
    for number, name in enumerate(classes.names):
        own = wanted == number
        if own.any():
            found.append((name, hit[own].double().mean().item(), int(own.sum())))
    return sorted(found, key=lambda row: -row[1])


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
