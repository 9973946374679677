"""Patch embedding as operators of PyTorch, with their gradients: what `backend="triton"` calls.

Imports without Triton; the kernels are imported when an operator runs. Shapes as in `reference.py`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..dropout import drawn
from ..operators import operator
from ..registry import Call
from ..runtime import refuse_triton

_FORWARD = (
    "(Tensor x, Tensor weight, Tensor? bias, int[] patch, Tensor? kept, Tensor? positions, Tensor? token, Tensor? seed,"
    " float p, bool gathered) -> Tensor"
)
_BACKWARD = (
    "(Tensor grad_out, Tensor x, int[] patch, Tensor? kept, Tensor? seed, float p, int patches, bool token,"
    " bool gathered)"
    " -> (Tensor, Tensor, Tensor)"
)


def refuse(call: Call) -> list[str]:
    """The reasons why the Triton kernels cannot run ``call``."""
    reasons = refuse_triton(call)
    if call.facts.get("input_gradient"):
        reasons.append("gives no gradient of the input")
    if len(call.facts.get("patch", ())) > 3:
        reasons.append("has patches of up to three axes")
    if call.facts.get("input") == torch.float64:
        reasons.append("reads no float64 input")
    return reasons


def _fake(x, weight, bias, patch, kept, positions, token, seed, p, gathered):
    K = patch_count(x, patch) if kept is None else kept.shape[-1]
    return weight.new_empty(x.shape[0], K + (token is not None), weight.shape[0])


@operator("vatt_kernels::patch_embed", _FORWARD, _fake)
def tokens(x, weight, bias, patch, kept, positions, token, seed, p, gathered):
    """Tokens (B, K, D) or, with the aggregation token, (B, 1 + K, D)."""
    from . import triton_launch

    return triton_launch.forward(x, weight, bias, patch, kept, positions, token, seed, p, gathered)


def _fake_backward(grad_out, x, patch, kept, seed, p, patches, token, gathered):
    D = grad_out.shape[-1]
    channels = x.shape[-1] if x.ndim == 2 + len(patch) else 1
    weight = grad_out.new_empty(D, math.prod(patch) * channels)
    positions = grad_out.new_empty(patches, D, dtype=torch.float32)
    return weight, positions, positions.new_empty(D if token else 0)


@operator("vatt_kernels::patch_embed_backward", _BACKWARD, _fake_backward)
def tokens_backward(grad_out, x, patch, kept, seed, p, patches, token, gathered):
    """Gradients of the weight (D, P), of the position rows (N, D), whose sum is the bias's, and of the token (D,)."""
    from . import triton_launch

    grad, sums = triton_launch.rows_gradient(grad_out, int(token), seed, p)
    weight_SDP = triton_launch.weight_gradient(grad, x, patch, kept, int(token), gathered)
    positions_ND = triton_launch.positions_gradient(grad, sums, patches, kept, int(token))
    token_D = sums[0].clone() if token else sums.new_empty(0)
    return weight_SDP.sum(0).to(grad_out.dtype), positions_ND, token_D


def patch_count(x: Tensor, patch: list[int]) -> int:
    """N."""
    return math.prod([size // side for size, side in zip(x.shape[1:], patch, strict=False)])


def position_count(x: Tensor, patch: list[int], positions: Tensor | None) -> int:
    """N, also of a signal that only has some of the patches."""
    return patch_count(x, patch) if positions is None else positions.shape[0]


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, _, bias, patch, kept, positions, token, seed, p, gathered = inputs
    ctx.patch, ctx.p, ctx.gathered = patch, p, gathered
    ctx.count = position_count(x, patch, positions)
    ctx.kinds = tuple(None if v is None else v.dtype for v in (bias, positions, token))
    ctx.save_for_backward(x, kept, seed)


def _gradients(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
    x, kept, seed = ctx.saved_tensors
    token = ctx.kinds[-1] is not None
    grads = tokens_backward(grad_out.contiguous(), x, ctx.patch, kept, seed, ctx.p, ctx.count, token, ctx.gathered)
    return of_inputs(grads, ctx.kinds)


tokens.gradient(_setup, _gradients)


def of_inputs(grads: tuple[Tensor, ...], kinds: tuple[torch.dtype | None, ...]) -> tuple[Tensor | None, ...]:
    """A gradient for each input of the operator, from what its backward operator gives. ``kinds``: of bias, positions
    and token, None for those that are not there."""
    (weight_DP, positions_ND, token_D), (bias, positions, token) = grads, kinds
    return (
        None,
        weight_DP,
        None if bias is None else positions_ND.sum(0).to(bias),
        None,
        None,
        None if positions is None else positions_ND.to(positions),
        None if token is None else token_D.to(token),
        None,
        None,
        None,
    )


def patch_embed(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    patch: tuple[int, ...],
    kept: Tensor | None,
    positions: Tensor | None,
    token: Tensor | None,
    dropout_p: float,
    seed: Tensor | None = None,
    gathered: bool = False,
) -> Tensor:
    """As `reference.patch_embed`, in one launch."""
    seed = drawn(seed, dropout_p, x.device)
    if gathered:
        x, patch, kept = as_line(x, kept, positions)
    optional = bias, kept, positions, token
    bias, kept, positions, token = (None if value is None else value.contiguous() for value in optional)
    signal, weight = x.contiguous(), weight.contiguous()
    return tokens(signal, weight, bias, list(patch), kept, positions, token, seed, float(dropout_p), gathered)


def as_line(x: Tensor, kept: Tensor | None, positions: Tensor | None) -> tuple[Tensor, tuple[int, ...], Tensor | None]:
    """Gathered patches (B, K, P) as a signal (B, K * P) of one axis, its patch, and the ``kept`` of positions."""
    B, K, P = x.shape
    if K == 0:  # the kernel reads a patch for rows that have none: there must be one
        return x.new_zeros(B, P), (P,), torch.zeros(0, dtype=torch.int64, device=x.device)
    return x.reshape(B, K * P), (P,), None if positions is None else kept
