"""The perceptron on a CPU, in one autograd function: between its products, bias, GELU and dropout make one pass over
blocks that stay in the cache, and the mask is kept as 16 bits an element.

Shapes: R rows, D width, M inner width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..cpu import differentiable, row_blocks, row_scores, score_blocks, select
from ..dropout import drawn, keep_scale
from . import reference


class _Mlp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x, weight_in, bias_in, weight_out, bias_out, p, seed):
        x_RD = x.reshape(-1, x.shape[-1])
        product_RM = x_RD @ weight_in.T
        hidden_RM = torch.empty_like(product_RM)
        scores_RM = None if seed is None else row_scores(seed, *product_RM.shape)
        for block, scores in _blocks(product_RM, scores_RM):
            product, hidden = product_RM[block], hidden_RM[block]
            if bias_in is not None:
                product.add_(bias_in)
            torch.ops.aten.gelu.out(product, out=hidden)
            if scores is not None:
                select(hidden, scores, p, out=hidden).mul_(keep_scale(p))
        ctx.save_for_backward(x, weight_in, bias_in, weight_out, bias_out, seed, product_RM, hidden_RM, scores_RM)
        ctx.p = p
        return torch.nn.functional.linear(hidden_RM, weight_out, bias_out).view(*x.shape[:-1], weight_out.shape[0])

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
        for block, scores in _blocks(product_RM, scores_RM):
            grad = grad_RM[block]
            if scores is not None:
                select(grad, scores, ctx.p, out=grad).mul_(keep_scale(ctx.p))
            torch.ops.aten.gelu_backward.grad_input(grad, product_RM[block], grad_input=grad)
            if grad_bias_in is not None:
                grad_bias_in += grad.sum(0)
        grad_weight_in = grad_RM.T @ x.reshape(-1, x.shape[-1]) if of_weight_in else None
        grad_x = (grad_RM @ weight_in).view(x.shape) if of_x else None
        return grad_x, grad_weight_in, grad_bias_in, grad_weight_out, grad_bias_out, None, None


def _blocks(x_RM: Tensor, scores_RM: Tensor | None) -> Any:
    """(block, scores or None)."""
    if scores_RM is None:
        return ((block, None) for block in row_blocks(*x_RM.shape))
    return score_blocks(scores_RM, x_RM.dtype)


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
