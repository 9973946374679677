"""The contrastive losses on one matrix of similarities, kept for the backward pass: what "auto" takes on a CPU.

There a pass over the matrix costs a tenth of a product, so there are few. Where one ``peak`` for all similarities is
safe, the matrix becomes E = exp(s - peak) in place. The log-sum-exps are then logarithms of its row and column sums,
and the gradient of s_mn is E_mn (g_m / sum_m + g_n / sum_n), where g are the gradients of the log-sum-exps.

Shapes: M queries, N keys, D width.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..operators import operator
from . import op
from .reference import INVALID, Rows, at_least_fp32

SAFE = 40.0  # exp(-2 SAFE) and its inverse are far from the ends of float32

_LSE = (
    "(Tensor query, Tensor key, Tensor? query_valid, Tensor? key_valid, float temperature, int items, float peak)"
    " -> (Tensor, Tensor, Tensor, Tensor)"
)
_GRADIENT = (
    "(Tensor matrix, Tensor? query_valid, Tensor? key_valid, Tensor query_lse, Tensor? query_grad, Tensor key_lse,"
    " Tensor? key_grad, float peak) -> Tensor"
)


def nce(first: Rows, second: Rows, temperature: float, kind: str, precision: torch.dtype | None = None) -> Tensor:
    """As `reference.nce`."""
    dtype = first.local.dtype
    first, second = at_least_fp32(first, precision), at_least_fp32(second, precision)
    lse = partial(_similarity_lse, _peak(first, second, temperature))
    return op.nce(first, second, temperature, kind, lse=lse).to(dtype)


def _peak(first: Rows, second: Rows, temperature: float) -> float:
    """A similarity that no other exceeds, or 0 where none is known to be safe: reading it makes the host wait for any
    device but a CPU, and a trace cannot."""
    if torch.compiler.is_compiling():
        return 0.0
    longest = []
    for rows in (first, second):
        tensors = [rows.local] if rows.all is rows.local else [rows.local, rows.all]
        if any(type(x) is not Tensor or x.device.type != "cpu" or not x.numel() for x in tensors):
            return 0.0
        longest.append(max(float(torch.linalg.vector_norm(x.detach(), dim=-1).amax()) for x in tensors))
    peak = longest[0] * longest[1] / temperature
    return peak if peak <= SAFE else 0.0


def _similarity_lse(peak, query, key, query_valid, key_valid, temperature, items, precision):
    """An `op.LogSumExp` for rows that are rounded already."""
    query_lse, key_lse, pairs, _ = matrix_lse(query, key, query_valid, key_valid, temperature, items, peak)
    return query_lse, key_lse, pairs if items else None


def _fake(query, key, query_valid, key_valid, temperature, items, peak):
    M, N = query.shape[0], key.shape[0]
    pairs = (items, M // items, N // items) if items else (0,)
    return query.new_empty(M), query.new_empty(N if items else 0), query.new_empty(pairs), query.new_empty(M, N)


@operator("vatt_kernels::similarity_matrix_lse", _LSE, _fake)
def matrix_lse(query, key, query_valid, key_valid, temperature, items, peak):
    """As `op.LogSumExp`, and the matrix (M, N): of exp(s - peak), or with peak 0 of s itself."""
    matrix = (query / temperature) @ key.T
    pairs = _pairs(matrix, items).clone() if items else matrix.new_empty(0)
    key_lse = matrix.new_empty(0)
    if peak == 0:
        query_lse = _lowered(matrix, key_valid, 0).logsumexp(1)
        if items:
            key_lse = _lowered(matrix, query_valid, 1).logsumexp(0)
        return query_lse, key_lse, pairs, matrix
    matrix.sub_(peak).exp_()
    query_lse = _log(matrix.sum(1) if key_valid is None else matrix @ key_valid).add_(peak)
    if items:
        key_lse = _log(matrix.sum(0) if query_valid is None else query_valid @ matrix).add_(peak)
    return query_lse, key_lse, pairs, matrix


def _pairs(matrix: Tensor, items: int) -> Tensor:
    """The part of the matrix of each item with itself, a view (B, C, S)."""
    M, N = matrix.shape
    return matrix.view(items, M // items, items, N // items).diagonal(0, 0, 2).permute(2, 0, 1)


def _lowered(matrix: Tensor, valid: Tensor | None, axis: int) -> Tensor:
    """Similarities, lowered where ``valid`` (by column; with axis 1 by row) is 0."""
    return matrix if valid is None else matrix - (INVALID * (1 - valid)).unsqueeze(axis)


def _log(total: Tensor) -> Tensor:
    """Finite where a row sees none."""
    return total.clamp_min_(torch.finfo(total.dtype).tiny).log_()


def _fake_gradient(matrix, query_valid, key_valid, query_lse, query_grad, key_lse, key_grad, peak):
    return torch.empty_like(matrix)


@operator("vatt_kernels::similarity_matrix_gradient", _GRADIENT, _fake_gradient)
def matrix_gradient(matrix, query_valid, key_valid, query_lse, query_grad, key_lse, key_grad, peak):
    """The gradient of s, (M, N)."""
    if peak == 0:
        found = (_lowered(matrix, key_valid, 0) - query_lse[:, None]).exp_().mul_(query_grad[:, None])
        if key_grad is not None:
            found += (_lowered(matrix, query_valid, 1) - key_lse).exp_().mul_(key_grad)
        return found
    query_M1 = (query_grad * (peak - query_lse).exp())[:, None]
    found = query_M1.expand_as(matrix) if key_valid is None else query_M1 * key_valid
    if key_grad is not None:
        key_N = key_grad * (peak - key_lse).exp()
        found = found + (key_N if query_valid is None else query_valid[:, None] * key_N)
    return found * matrix if found.stride(1) == 0 else found.mul_(matrix)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    query, key, query_valid, key_valid, ctx.temperature, ctx.items, ctx.peak = inputs
    query_lse, key_lse, _, matrix = output
    ctx.set_materialize_grads(False)  # none for the matrix
    ctx.save_for_backward(query, key, query_valid, key_valid, query_lse, key_lse, matrix)


def _gradients(
    ctx: Any, query_grad: Tensor | None, key_grad: Tensor | None, pairs_grad: Tensor | None, _: Any
) -> tuple[Tensor | None, ...]:
    query, key, query_valid, key_valid, query_lse, key_lse, matrix = ctx.saved_tensors
    query_grad = torch.zeros_like(query_lse) if query_grad is None else query_grad
    grads = query_lse, query_grad, key_lse, key_grad if ctx.items else None
    grad_MN = matrix_gradient(matrix, query_valid, key_valid, *grads, ctx.peak)
    if ctx.items and pairs_grad is not None:
        _pairs(grad_MN, ctx.items).add_(pairs_grad)
    grad_query = (grad_MN @ key).div_(ctx.temperature) if ctx.needs_input_grad[0] else None
    grad_key = grad_MN.T @ (query / ctx.temperature) if ctx.needs_input_grad[1] else None
    return grad_query, grad_key, None, None, None, None, None


matrix_lse.gradient(_setup, _gradients)
