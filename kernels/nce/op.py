"""The contrastive losses on log-sum-exps of similarities: `nce`, given an operator that makes them, and the streaming
one in Triton, whose memory grows with the number of rows, never with that of pairs.

Imports without Triton; the kernels are imported when an operator runs. Shapes: B local items, C and S candidates of an
item, M queries, N keys, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..operators import operator
from .reference import Rows, at_least_fp32, positive, scale

_LSE = (
    "(Tensor query, Tensor key, Tensor? query_valid, Tensor? key_valid, float temperature, bool keys,"
    " ScalarType precision) -> (Tensor, Tensor)"
)
_GRADIENT = (
    "(Tensor own, Tensor other, Tensor? own_valid, Tensor? other_valid, Tensor? own_lse, Tensor? own_grad,"
    " Tensor? other_lse, Tensor? other_grad, float temperature, ScalarType precision) -> Tensor"
)
# (query (M, D), key (N, D), query_valid (M,) or None, key_valid (N,) or None, temperature, items, precision) -> the
# natural log-sum-exp of the similarities of each query with all valid keys (M,). With ``items``, the number B of items
# that rows of both sides belong to in order, also that of each key with all valid queries (N,), and the similarities
# of each item's own pairs (B, C, S) if they are at hand, else None. Rows are rounded to the type ``precision``; their
# gradients are of their own type.
LogSumExp = Callable[..., tuple[Tensor, Tensor, Tensor | None]]


def _fake(query, key, query_valid, key_valid, temperature, keys, precision):
    M, N = query.shape[0], key.shape[0] if keys else 0
    return query.new_empty(M, dtype=torch.float32), query.new_empty(N, dtype=torch.float32)


@operator("vatt_kernels::similarity_lse", _LSE, _fake)
def similarity_lse(query, key, query_valid, key_valid, temperature, keys, precision):
    """As `LogSumExp`, in float32. A row that sees none has a finite one, near the logarithm of 2 times -1e9."""
    from . import triton_launch

    query, key = query.to(precision), key.to(precision)
    query_lse, key_lse = triton_launch.lse(query, key, query_valid, key_valid, temperature, keys)
    return query_lse, query_lse.new_empty(0) if key_lse is None else key_lse


def _fake_gradient(
    own, other, own_valid, other_valid, own_lse, own_grad, other_lse, other_grad, temperature, precision
):
    return torch.empty_like(own)


@operator("vatt_kernels::similarity_lse_gradient", _GRADIENT, _fake_gradient)
def similarity_lse_gradient(
    own, other, own_valid, other_valid, own_lse, own_grad, other_lse, other_grad, temperature, precision
):
    """The gradient of ``own``, queries or keys, from those of the log-sum-exps of the own and of the other rows (either
    may be None)."""
    from . import triton_launch

    rows, valid = (own.to(precision), other.to(precision)), (own_valid, other_valid)
    own_pair = None if own_grad is None else (own_lse, own_grad)
    other_pair = None if other_grad is None else (other_lse, other_grad)
    return triton_launch.gradient(*rows, *valid, own_pair, other_pair, temperature, own.dtype)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    query, key, query_valid, key_valid, ctx.temperature, ctx.keys, ctx.precision = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(query, key, query_valid, key_valid, *output)


def _gradients(ctx: Any, grad_query_lse: Tensor | None, grad_key_lse: Tensor | None) -> tuple[Tensor | None, ...]:
    query, key, query_valid, key_valid, query_lse, key_lse = ctx.saved_tensors
    grad_key_lse = grad_key_lse if ctx.keys else None
    queries, keys = ((None, None) if g is None else (lse, g.contiguous())
                     for lse, g in ((query_lse, grad_query_lse), (key_lse, grad_key_lse)))  # fmt: skip
    needed, common = ctx.needs_input_grad, (ctx.temperature, ctx.precision)
    grads: list[Tensor | None] = [None, None]
    if needed[0]:
        grads[0] = similarity_lse_gradient(query, key, query_valid, key_valid, *queries, *keys, *common)
    if needed[1]:
        grads[1] = similarity_lse_gradient(key, query, key_valid, query_valid, *keys, *queries, *common)
    return *grads, None, None, None, None, None


similarity_lse.gradient(_setup, _gradients)


def _streamed(query, key, query_valid, key_valid, temperature, items, precision):
    return *similarity_lse(query, key, query_valid, key_valid, temperature, items > 0, precision), None


def nce(
    first: Rows,
    second: Rows,
    temperature: float,
    kind: str,
    precision: torch.dtype | None = None,
    lse: LogSumExp = _streamed,
) -> Tensor:
    """As `reference.nce`. Lowering the row of an invalid local item is left out: its loss is multiplied with 0."""
    exact_1, exact_2 = at_least_fp32(first, precision), at_least_fp32(second, precision)
    masks = exact_1.mask, exact_2.mask
    valid = [None if kind == "asymmetric" else first.mask_all, second.mask_all]
    products = precision or first.local.dtype
    forward_B, backward_B, pairs_BCS = _both(first, second, valid, temperature, products, lse)
    if pairs_BCS is None:
        positive_B = positive(exact_1, exact_2, temperature)
    else:
        positive_B = pairs_BCS.flatten(1).logsumexp(1)
    if kind == "asymmetric":
        losses_B = torch.logaddexp(forward_B, backward_B) - positive_B
        return scale(losses_B, masks[1]).to(first.local.dtype)
    losses_B = forward_B + backward_B - 2 * positive_B
    return scale(scale(losses_B, masks[0]), masks[1]).to(first.local.dtype)


def _both(
    first: Rows, second: Rows, valid: list[Tensor | None], temperature: float, precision: torch.dtype, lse: LogSumExp
) -> tuple[Tensor, Tensor, Tensor | None]:
    """(B,) of the local items of each side: the log-sum-exp of all their candidates with all rows of the other side.
    And the similarities of their own pairs, if ``lse`` gives them."""
    sides, T = (first, second), float(temperature)
    valid_1, valid_2 = (
        None if v is None else v.repeat_interleave(rows.all.shape[1]) for v, rows in zip(valid, sides, strict=True)
    )
    all_1, all_2 = (_flat(rows.all) for rows in sides)
    if first.all is first.local and second.all is second.local:  # one matrix has the similarities of both
        found = lse(all_1, all_2, valid_1, valid_2, T, first.all.shape[0], precision)
    else:
        local_1, local_2 = (_flat(rows.local) for rows in sides)
        one_way = lse(local_1, all_2, None, valid_2, T, 0, precision)
        back = lse(local_2, all_1, None, valid_1, T, 0, precision)
        found = one_way[0], back[0], None
    forward_BC, backward_BS = (x.view(rows.local.shape[:2]) for x, rows in zip(found[:2], sides, strict=True))
    return forward_BC.logsumexp(1), backward_BS.logsumexp(1), found[2]


def _flat(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[2]).contiguous()
