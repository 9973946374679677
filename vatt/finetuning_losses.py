"""Classification losses of fine-tuning (official modeling/factory.py).

Shapes: B samples, K classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def single_label_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy of softmax(logits) (B, K) against probabilities ``targets`` (B, K), the mean over the batch."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return -(targets * wide.log_softmax(-1)).sum(-1).mean()


def multi_label_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Sigmoid cross entropy (B, K) against multi-hot ``targets``, summed over classes, weighted, mean over the batch.

    The weight of a sample is the mean, over its positive classes, of 1 / (samples of the batch with that class): the
    paper divides the loss of a sample by the count of its labels in the batch. A sample without any positive class
    makes the official loss NaN; here its weight is 0.
    """
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    targets = targets.to(wide)
    rarity_K = 1 / targets.sum(0).clamp(min=torch.finfo(wide.dtype).tiny)
    positives_B = targets.sum(1)
    weight_B = torch.where(targets > 0, targets * rarity_K, 0.0).sum(1) / positives_B.clamp(min=1e-12)
    losses_B = F.binary_cross_entropy_with_logits(wide, targets, reduction="none").sum(1)
    return (losses_B * weight_B).mean()
