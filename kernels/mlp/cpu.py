"""The perceptron on a CPU, in one autograd function: between its products, bias, GELU and dropout make one pass over
blocks that stay in the cache, and the mask is kept as 16 bits an element.

Shapes: R rows, D width, M inner width.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..cpu import blocks, differentiable, row_scores, rows_of_block, score_blocks, select
from ..dropout import drawn, keep_scale
from . import reference


class _Mlp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x, weight_in, bias_in, weight_out, bias_out, p, seed):
        x_RD = x.reshape(-1, x.shape[-1])
        product_RM = x_RD @ weight_in.T
        hidden_RM = torch.empty_like(product_RM)
        scores_RM = None if seed is None else row_scores(seed, *product_RM.shape)
        for scores, product, hidden in _blocks(scores_RM, product_RM, hidden_RM):
            if bias_in is not None:
                product.add_(bias_in)
            torch.ops.aten.gelu.out(product, out=hidden)
            if scores is not None:
                select(hidden, scores, p, out=hidden).mul_(keep_scale(p))
        ctx.save_for_backward(x, weight_in, bias_in, weight_out, bias_out, seed, product_RM, hidden_RM, scores_RM)
        ctx.p = p
        out = torch.nn.functional.linear(hidden_RM, weight_out, bias_out)
        # No view: the caller may change the output in place, as that of the plain operations.
        return torch.ops.aten._unsafe_view(out, [*x.shape[:-1], weight_out.shape[0]])

    @staticmethod
    def backward(ctx: Any, grad_out):
        *inputs, seed, product_RM, hidden_RM, scores_RM = ctx.saved_tensors
        if torch.is_grad_enabled():
            return *differentiable(reference.mlp, inputs, (ctx.p, seed), grad_out, ctx.needs_input_grad), None, None
        x, weight_in, bias_in, weight_out, _ = inputs
        of_x, of_weight_in, of_bias_in, of_weight_out, of_bias_out, *_ = ctx.needs_input_grad
        grad_RD = grad_out.reshape(-1, grad_out.shape[-1])
        grad_weight_out = grad_RD.T @ hidden_RM if of_weight_out else None
        grad_bias_out = grad_RD.sum(0) if of_bias_out else None
        if not (of_x or of_weight_in or of_bias_in):
            return None, None, None, grad_weight_out, grad_bias_out, None, None
        grad_RM = grad_RD @ weight_out
        grad_bias_in = torch.zeros_like(bias_in) if of_bias_in else None
        for scores, product, grad in _blocks(scores_RM, product_RM, grad_RM):
            if scores is not None:
                select(grad, scores, ctx.p, out=grad).mul_(keep_scale(ctx.p))
            torch.ops.aten.gelu_backward.grad_input(grad, product, grad_input=grad)
            if grad_bias_in is not None:
                grad_bias_in += grad.sum(0)
        grad_weight_in = grad_RM.T @ x.reshape(-1, x.shape[-1]) if of_weight_in else None
        grad_x = (grad_RM @ weight_in).view(x.shape) if of_x else None
        return grad_x, grad_weight_in, grad_bias_in, grad_weight_out, grad_bias_out, None, None


def _blocks(scores_RM: Tensor | None, *arrays: Tensor) -> Iterator[tuple[Any, ...]]:
    """Scores, or None, and the arrays."""
    if scores_RM is not None:
        return score_blocks(scores_RM, *arrays)
    return ((None, *parts) for parts in blocks(rows_of_block(arrays[0].shape[1]), *arrays))


def mlp(
    x: Tensor,
    weight_in: Tensor,
    bias_in: Tensor | None,
    weight_out: Tensor,
    bias_out: Tensor | None,
    dropout_p: float,
    seed: Tensor | None = None,
) -> Tensor:
    """As `reference.mlp`."""
    seed = drawn(seed, dropout_p, x.device)
    return _Mlp.apply(x, weight_in, bias_in, weight_out, bias_out, dropout_p, seed)
