"""Dropout and the residual sum on a CPU: one pass over blocks that stay in the cache. The norm itself is PyTorch's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..cpu import row_scores, score_blocks, select
from ..dropout import drawn, dropout, keep_scale
from . import reference


class _DropoutSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x, residual, p, seed):
        """dropout(x) + residual, both (R, D)."""
        scores, total = row_scores(seed, *x.shape), torch.empty_like(residual)
        for numbers, of_x, of_residual, part in score_blocks(scores, x, residual, total):
            select(of_x, numbers, p, out=part)
            torch.add(of_residual, part, alpha=keep_scale(p), out=part)
        ctx.save_for_backward(scores, seed)
        ctx.p = p
        return total

    @staticmethod
    def backward(ctx: Any, grad):
        (scores, seed), grad_x = ctx.saved_tensors, None
        if ctx.needs_input_grad[0] and torch.is_grad_enabled():
            grad_x = dropout(grad, ctx.p, seed)  # linear, so its gradient is that of itself
        elif ctx.needs_input_grad[0]:
            grad_x = torch.empty_like(grad)
            for numbers, part, out in score_blocks(scores, grad, grad_x):
                select(part, numbers, ctx.p, out=out).mul_(keep_scale(ctx.p))
        return grad_x, grad, None, None


def layer_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    residual: Tensor | None,
    dropout_p: float,
    seed: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """As `reference.layer_norm`."""
    if residual is None or dropout_p == 0 or x.dtype != residual.dtype:
        return reference.layer_norm(x, weight, bias, eps, residual, dropout_p, seed)
    total = _sum(x, residual, dropout_p, seed)
    return total, reference.layer_norm(total, weight, bias, eps, None, 0.0)  # type: ignore[return-value]


def rms_norm(
    x: Tensor,
    weight: Tensor,
    eps: float,
    residual: Tensor | None,
    dropout_p: float,
    seed: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """As `reference.rms_norm`."""
    if residual is None or dropout_p == 0 or x.dtype != residual.dtype:
        return reference.rms_norm(x, weight, eps, residual, dropout_p, seed)
    total = _sum(x, residual, dropout_p, seed)
    return total, reference.rms_norm(total, weight, eps, None, 0.0)  # type: ignore[return-value]


def _sum(x: Tensor, residual: Tensor, p: float, seed: Tensor | None) -> Tensor:
    D = x.shape[-1]
    return _DropoutSum.apply(x.reshape(-1, D), residual.reshape(-1, D), p, drawn(seed, p, x.device)).view(x.shape)
