"""What fine-tuning does to labels, and its losses, with the official conventions.

Mixup and label smoothing follow official data/processing.py, the losses modeling/factory.py.

Shapes: B samples, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Mix:
    """Mixup of a batch: item i is mixed with item ``permutation[i]`` and keeps the share ``lam[i]``.

    ``permutation`` int64 (B,), one for the whole batch; ``lam`` float (B,).
    """

    permutation: Tensor
    lam: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """lam * x + (1 - lam) * x[permutation] for floating-point x (B, ...): inputs or labels."""
        if x.shape[0] != self.lam.shape[0]:
            raise ValueError(f"x: expected {self.lam.shape[0]} items, got {tuple(x.shape)}")
        lam = self.lam.to(x).view(-1, *[1] * (x.ndim - 1))
        return lam * x + (1 - lam) * x[self.permutation.to(x.device)]


def draw_mix(batch: int, alpha: float = 5.0, beta: float = 2.0, generator: torch.Generator | None = None) -> Mix:
    """Draws lam ~ Beta(alpha, beta) for each item, and a permutation.

    The official function has (5, 2) as defaults; its fine-tuning loaders pass (5, 5), as the paper says, and its
    pretraining loader (10, 2), both off by default.

    Raises:
        ValueError: ``alpha`` or ``beta`` is not positive.
    """
    if alpha <= 0 or beta <= 0:
        raise ValueError(f"alpha, beta: must be > 0, got {alpha}, {beta}")
    # A Beta variable from two Gamma variables: torch's Beta takes no generator.
    shapes = torch.tensor([alpha, beta], dtype=torch.float64).expand(batch, 2).contiguous()
    gammas = torch._standard_gamma(shapes, generator=generator)
    lam = (gammas[:, 0] / gammas.sum(1)).to(torch.float32)
    return Mix(torch.randperm(batch, generator=generator), lam)


def smooth_labels(labels: Tensor, alpha: float) -> Tensor:
    """(1 - alpha) * labels + alpha / K for single-label targets (B, K). Official order: before `Mix`.

    Raises:
        ValueError: ``alpha`` is outside [0, 1].
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha: must be in [0, 1], got {alpha}")
    return (1 - alpha) * labels + alpha / labels.shape[-1]


def split_windows(waveform: Tensor, windows: int) -> Tensor:
    """One waveform (L, ...) as ``windows`` equal parts (windows, L // windows, ...).

    Raises:
        ValueError: L is no multiple of ``windows``.
    """
    if windows < 1 or waveform.shape[0] % windows:
        raise ValueError(f"windows: {waveform.shape[0]} samples are no multiple of {windows}")
    return waveform.unflatten(0, (windows, -1))


def single_label_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy of softmax(logits) (B, K) against probabilities ``targets`` (B, K), the mean over the batch."""
    logits_fp32 = logits.to(torch.promote_types(logits.dtype, torch.float32))  # float64 stays
    return -(targets * logits_fp32.log_softmax(-1)).sum(-1).mean()


def multi_label_loss(logits: Tensor, targets: Tensor, counts: Tensor | None = None) -> Tensor:
    """Sigmoid cross entropy (B, K) against multi-hot ``targets``, summed over classes, weighted, mean over the batch.

    The weight of a sample is the mean, over its positive classes, of 1 / (samples of the batch with that class): the
    paper divides the loss of a sample by the count of its labels in the batch. A sample without any positive class
    makes the official loss NaN; here its weight is 0.

    Args:
        counts: (K,), the samples with each class where the batch has more than these, on other ranks or in other parts
            of the step: the mean of all their losses then is the loss of the whole batch. The official code counts
            those of a replica.
    """
    logits_fp32 = logits.to(torch.promote_types(logits.dtype, torch.float32))  # float64 stays
    targets = targets.to(logits_fp32)
    counts = targets.sum(0) if counts is None else counts.to(logits_fp32)
    rarity_K = 1 / counts.clamp(min=torch.finfo(logits_fp32.dtype).tiny)
    positives_B = targets.sum(1)
    weight_B = torch.where(targets > 0, targets * rarity_K, 0.0).sum(1) / positives_B.clamp(min=1e-12)
    losses_B = F.binary_cross_entropy_with_logits(logits_fp32, targets, reduction="none").sum(1)
    return (losses_B * weight_B).mean()
