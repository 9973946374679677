"""Norms of Liger-Kernel behind the residual sum. Dropout and, but for one, the sum are PyTorch's."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from bench.problems import Bound, Leaves, Problem
from bench.rivals.packages import need
from bench.shapes import NormShape

EPSILON = 1e-6
_PLAIN, _LLAMA = 0.0, "llama"  # no offset of the scale; statistics in float32, the rest in the type of the rows


def liger_norm(problem: Problem, dropout: float) -> tuple[Bound, Leaves]:
    """LigerLayerNormFunction, or LigerRMSNormFunction where ours is an RMS norm, of the sum.

    Raises:
        ImportError: no liger_kernel.
    """
    assert isinstance(problem.shape, NormShape)
    leaves = problem.leaves
    if problem.shape.centred:
        layer_norm = need("liger_kernel.ops.layer_norm", "LigerLayerNormFunction").apply

        def norm(total: Tensor) -> Tensor:
            return layer_norm(total, leaves["weight"], leaves["bias"], EPSILON)

    else:
        rms_norm = need("liger_kernel.ops.rms_norm", "LigerRMSNormFunction").apply

        def norm(total: Tensor) -> Tensor:
            # Not in place: that writes the gradient over the one that came in, which the caller uses again.
            return rms_norm(total, leaves["weight"], EPSILON, _PLAIN, _LLAMA, False)

    def call() -> tuple[Tensor, ...]:
        total = _dropped(leaves["x"], dropout) + leaves["residual"]
        return total, norm(total)

    return call, leaves


def liger_sum_and_norm(problem: Problem, dropout: float) -> tuple[Bound, Leaves]:
    """LigerFusedAddRMSNormFunction: the sum and its RMS norm in one kernel.

    Raises:
        ImportError: no liger_kernel. ValueError: the problem is a layer norm, for which Liger has no such kernel.
    """
    assert isinstance(problem.shape, NormShape)
    if problem.shape.centred:
        raise ValueError("liger_kernel fuses the residual sum with its RMS norm only, not with a layer norm")
    leaves = problem.leaves
    fused = need("liger_kernel.ops.fused_add_rms_norm", "LigerFusedAddRMSNormFunction").apply

    def call() -> tuple[Tensor, ...]:
        x = _dropped(leaves["x"], dropout)
        normed, total = fused(x, leaves["residual"], leaves["weight"], EPSILON, _PLAIN, _LLAMA, False)
        return total, normed

    return call, leaves


def _dropped(x: Tensor, dropout: float) -> Tensor:
    return F.dropout(x, dropout) if dropout > 0 else x
