"""One classifier on the features of one split, and the figures of several splits together.

Shapes: N clips, V views of a clip, M = N * V samples, D width, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean, stdev
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from vatt.data.clips import Clip
from vatt.data.labels import Classes
from vatt.evaluation.classification import accuracy
from vatt.evaluation.probe.features import Features
from vatt.evaluation.probe.low_rank import LowRankConfig, fit_low_rank
from vatt.evaluation.probe.protocol import ProbeError, Split
from vatt.evaluation.probe.svm import Scorer, fit_svm
from vatt.models.classifier import average_views

Kind = Literal["low-rank", "svm"]
KINDS: tuple[Kind, ...] = ("low-rank", "svm")
Row = dict[str, Any]


def fit_split(
    features: Features,
    clips: Sequence[Clip],
    classes: Classes,
    split: Split,
    kind: Kind,
    config: LowRankConfig,
    *,
    standardise: bool = True,
) -> Row:
    """Trains a classifier on the training clips of a split and tests it; one label per clip.

    Each view of a training clip is a sample of the low-rank classifier; the SVM takes their mean. The scores of a test
    clip are the mean over its views.

    Args:
        features: of ``clips``, by number; clips without features count as skipped.
        config: of the low-rank classifier; of the SVM its seed alone.
        standardise: gives each feature mean 0 and standard deviation 1 over the training samples.

    Returns:
        split, classifier, top1, top5, chance (share of the largest class among the test clips), n_train, n_test,
        skipped, classes (their number).

    Raises:
        ProbeError: no training clip of some class, or no test clip at all, could be read.
    """
    row_of = {number: row for row, number in enumerate(features.numbers)}
    kept = split.among(row_of.keys())
    if without := classes.check((clips[n] for n in kept.train), split.name):
        raise ProbeError(f"{split.name}: no training clip of the class {', '.join(without[:5])} could be read")
    if not kept.test:
        raise ProbeError(f"{split.name}: none of its {len(split.test)} test clips could be read")
    train_NVD, test_NVD = (features.x_NVD[[row_of[n] for n in side]] for side in (kept.train, kept.test))
    if standardise:
        train_NVD, test_NVD = _standardised(train_NVD, test_NVD)
    label_N, wanted_N = (torch.tensor([classes.numbers(clips[n])[0] for n in side]) for side in (kept.train, kept.test))
    score = _fit(kind, train_NVD, label_N, len(classes.names), config)
    found_NK = average_views(score(test_NVD.flatten(0, 1)), test_NVD.shape[1])
    chance = torch.bincount(wanted_N).max().item() / len(wanted_N)
    skipped = len(split.train) + len(split.test) - len(kept.train) - len(kept.test)
    counts = {"n_train": len(kept.train), "n_test": len(kept.test), "skipped": skipped, "classes": len(classes.names)}
    return {"split": split.name, "classifier": kind, **accuracy(found_NK, wanted_N), "chance": chance, **counts}


def summary(rows: Sequence[Row]) -> list[Row]:
    """For each classifier: splits (their number), and mean and sample standard deviation of top1 and top5 over them.

    The deviation of a single split is None.
    """
    found = []
    for kind in dict.fromkeys(row["classifier"] for row in rows):
        own = [row for row in rows if row["classifier"] == kind]
        line: Row = {"classifier": kind, "splits": len(own)}
        for name in ("top1", "top5"):
            values = [row[name] for row in own]
            line |= {name: mean(values), f"{name}_deviation": stdev(values) if len(values) > 1 else None}
        found.append(line)
    return found


def _standardised(train_NVD: Tensor, test_NVD: Tensor) -> tuple[Tensor, Tensor]:
    """Both by the statistics of the first; a feature that is the same everywhere becomes 0."""
    spread_D, centre_D = torch.std_mean(train_NVD.flatten(0, 1), 0, correction=0)
    spread_D = spread_D.clamp(min=1e-6)
    return (train_NVD - centre_D) / spread_D, (test_NVD - centre_D) / spread_D


def _fit(kind: Kind, x_NVD: Tensor, label_N: Tensor, classes: int, config: LowRankConfig) -> Scorer:
    """The function from features (M, D) to scores (M, K)."""
    views = x_NVD.shape[1]
    x_MD, label_M = x_NVD.flatten(0, 1), label_N.repeat_interleave(views)
    if kind == "svm":
        # the mean of the views: a linear score of it is the mean of their scores, and there is less to fit
        return fit_svm(x_NVD.mean(1), label_N.tolist(), range(len(label_N)), classes, config.seed)
    model = fit_low_rank(x_MD, F.one_hot(label_M, classes).float(), config).requires_grad_(False)
    return model
