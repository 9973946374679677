"""Patch embedding by gathering: what `backend="gather"` calls. Two kernels of ours around a product of cuBLAS.

The first copies the kept patches into rows of the product's type, and the last adds bias and positions, drops out and
sets the aggregation token, in the product's own memory. The gradients are those of "triton", but for the weight's,
which is a product of cuBLAS too. Imports without Triton. Shapes as in `reference.py`; M: rows of the output.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..dropout import drawn
from ..operators import operator
from .op import as_line, of_inputs, patch_count, position_count

# Gathered patches of up to so many bytes are kept for the backward pass. Of 64 clips of video they are 308 MB beside
# many gigabytes of activations, and to gather them again takes a sixth of the time of both passes. But they live from
# the first operation of a step to its last. So those of large batches are gathered again: in front of all activations,
# and when none is left.
KEPT_BYTES = 512 << 20

_FORWARD = (
    "(Tensor x, Tensor weight, Tensor? bias, int[] patch, Tensor? kept, Tensor? positions, Tensor? token, Tensor? seed,"
    " float p, bool gathered) -> (Tensor, Tensor)"
)
_BACKWARD = (
    "(Tensor grad_out, Tensor x, Tensor patches, int[] patch, Tensor? kept, Tensor? seed, float p, int count,"
    " bool token, bool gathered) -> (Tensor, Tensor, Tensor)"
)


def _fake(x, weight, bias, patch, kept, positions, token, seed, p, gathered):
    B, (D, P) = x.shape[0], weight.shape
    rows = (patch_count(x, patch) if kept is None else kept.shape[-1]) + (token is not None)
    return weight.new_empty(B, rows, D), weight.new_empty(B * rows if _are_kept(B * rows, weight) else 0, P)


def _are_kept(M: int, weight: Tensor) -> bool:
    return M * weight.shape[1] * weight.dtype.itemsize <= KEPT_BYTES


@operator("vatt_kernels::patch_embed_gather", _FORWARD, _fake)
def tokens(x, weight, bias, patch, kept, positions, token, seed, p, gathered):
    """Tokens (B, K, D) or, with the aggregation token, (B, 1 + K, D); and the patches (M, P), or none of them."""
    from . import triton_gather

    B, (D, P) = x.shape[0], weight.shape
    rows = (patch_count(x, patch) if kept is None else kept.shape[-1]) + (token is not None)
    patches = triton_gather.gather(x, patch, kept, int(token is not None), weight.dtype, gathered)
    out = _product(patches, weight.T, triton_gather.factor(x, weight.dtype)).view(B, rows, D)
    triton_gather.finish(out, bias, kept, positions, token, seed, p)
    return out, patches if _are_kept(B * rows, weight) else patches.new_empty(0, P)


def _product(a: Tensor, b: Tensor, factor: float) -> Tensor:
    """factor * a b, rounded once; autocast leaves it alone, for its memory is given."""
    out = a.new_empty(a.shape[0], b.shape[1])
    return torch.addmm(out, a, b, beta=0, alpha=factor, out=out)


def _fake_backward(grad_out, x, patches, patch, kept, seed, p, count, token, gathered):
    D = grad_out.shape[-1]
    positions = grad_out.new_empty(count, D, dtype=torch.float32)
    return grad_out.new_empty(D, patches.shape[1]), positions, positions.new_empty(D if token else 0)


@operator("vatt_kernels::patch_embed_gather_backward", _BACKWARD, _fake_backward)
def tokens_backward(grad_out, x, patches, patch, kept, seed, p, count, token, gathered):
    """Gradients of the weight (D, P), of the position rows (N, D), whose sum is the bias's, and of the token (D,)."""
    from . import triton_gather, triton_launch

    extra = int(token)
    if not len(patches):
        patches = triton_gather.gather(x, patch, kept, extra, grad_out.dtype, gathered)
    grad, sums = triton_launch.rows_gradient(grad_out, extra, seed, p)
    positions_ND = triton_launch.positions_gradient(grad, sums, count, kept, extra)
    weight_DP = _product(grad.flatten(0, 1).T, patches, triton_gather.factor(x, grad_out.dtype))
    return weight_DP, positions_ND, sums[0].clone() if token else sums.new_empty(0)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, _, bias, patch, kept, positions, token, seed, p, gathered = inputs
    ctx.set_materialize_grads(False)
    ctx.patch, ctx.p, ctx.gathered = patch, p, gathered
    ctx.count = position_count(x, patch, positions)
    ctx.kinds = tuple(None if v is None else v.dtype for v in (bias, positions, token))
    ctx.save_for_backward(x, kept, seed, output[1])


def _gradients(ctx: Any, grad_out: Tensor | None, _patches: Any) -> tuple[Tensor | None, ...]:
    x, kept, seed, patches = ctx.saved_tensors
    if grad_out is None:
        return (None,) * 10
    rest = ctx.p, ctx.count, ctx.kinds[-1] is not None, ctx.gathered
    grads = tokens_backward(grad_out.contiguous(), x, patches, ctx.patch, kept, seed, *rest)
    return of_inputs(grads, ctx.kinds)


tokens.gradient(_setup, _gradients)


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
    """As `reference.patch_embed`."""
    seed = drawn(seed, dropout_p, x.device)
    if gathered:
        x, patch, kept = as_line(x, kept, positions)
    optional = bias, kept, positions, token
    bias, kept, positions, token = (None if value is None else value.contiguous() for value in optional)
    signal, weight = x.contiguous(), weight.contiguous()
    return tokens(signal, weight, bias, list(patch), kept, positions, token, seed, float(dropout_p), gathered)[0]
