"""The contrastive losses on a streaming log-sum-exp, with its gradient: what `backend="triton"` calls.

Memory grows with the number of rows, never with the number of pairs. Imports without Triton; the kernels are imported
when an operator runs. Shapes: B local items, C and S candidates of an item, M queries, N keys, D width.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .reference import Rows, positive, scale

LN2 = math.log(2)


@torch.library.custom_op(
    "vatt_kernels::similarity_lse",
    mutates_args=(),
    schema="(Tensor query, Tensor key, Tensor? mask, float temperature) -> Tensor",
)
def similarity_lse(query, key, mask, temperature):
    """log sum over keys of exp(query . key / temperature), (M,) in float32; masked keys (0 in (N,)) are lowered."""
    from . import triton_launch

    return (triton_launch.forward(query, key, mask, temperature) * LN2).logsumexp(0)


@similarity_lse.register_fake
def _(query, key, mask, temperature):
    return query.new_empty(query.shape[0], dtype=torch.float32)


@torch.library.custom_op(
    "vatt_kernels::similarity_lse_backward",
    mutates_args=(),
    schema=(
        "(Tensor grad_lse, Tensor query, Tensor key, Tensor? mask, Tensor lse, float temperature, bool queries)"
        " -> Tensor"
    ),
)
def similarity_lse_backward(grad_lse, query, key, mask, lse, temperature, queries):
    """Gradient of the queries (M, D) or, if not ``queries``, of the keys (N, D)."""
    from . import triton_launch

    own, other = (query, key) if queries else (key, query)
    partial = triton_launch.gradient(own, other, mask, lse / LN2, grad_lse, temperature, queries)
    return (partial.sum(0) / temperature).to(own.dtype)


@similarity_lse_backward.register_fake
def _(grad_lse, query, key, mask, lse, temperature, queries):
    return torch.empty_like(query if queries else key)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    query, key, mask, ctx.temperature = inputs
    ctx.save_for_backward(query, key, mask, output)


def _gradients(ctx: Any, grad_lse: Tensor) -> tuple[Tensor | None, ...]:
    query, key, mask, lse = ctx.saved_tensors
    grad_lse = grad_lse.contiguous()
    wanted = zip((True, False), ctx.needs_input_grad, strict=False)
    grads = [
        similarity_lse_backward(grad_lse, query, key, mask, lse, ctx.temperature, queries) if needed else None
        for queries, needed in wanted
    ]
    return *grads, None, None


similarity_lse.register_autograd(_gradients, setup_context=_setup)


def nce(first: Rows, second: Rows, temperature: float, kind: str) -> Tensor:
    """As `reference.nce`. Lowering the row of an invalid local item is left out: its loss is multiplied with 0."""
    fp32 = torch.float32
    positive_B = positive(
        replace(first, local=first.local.to(fp32)), replace(second, local=second.local.to(fp32)), temperature
    )
    masks = [None if rows.mask is None else rows.mask.to(fp32) for rows in (first, second)]
    if kind == "asymmetric":
        forward_B = _lse(first, second, second.mask_all, temperature)
        backward_B = _lse(second, first, None, temperature)
        losses_B = torch.logaddexp(forward_B, backward_B) - positive_B
        return scale(losses_B, masks[1]).to(first.local.dtype)
    forward_B = _lse(first, second, second.mask_all, temperature)
    backward_B = _lse(second, first, first.mask_all, temperature)
    losses_B = forward_B + backward_B - 2 * positive_B
    return scale(scale(losses_B, masks[0]), masks[1]).to(first.local.dtype)


def _lse(own: Rows, far: Rows, mask: Tensor | None, temperature: float) -> Tensor:
    """(B,): log-sum-exp of each local item of ``own``, all its candidates, with all rows of ``far``."""
    B, C, D = own.local.shape
    if mask is not None:
        mask = (mask != 0).to(torch.uint8).repeat_interleave(far.all.shape[1])
    query_MD = own.local.reshape(B * C, D).contiguous()
    key_ND = far.all.reshape(-1, D).contiguous()
    return similarity_lse(query_MD, key_ND, mask, float(temperature)).view(B, C).logsumexp(1)
