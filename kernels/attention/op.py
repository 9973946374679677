"""Flash attention as operators of PyTorch, with their gradients: what `backend="triton"` calls.

Imports without Triton; the kernels are imported when an operator runs. Shapes: T tokens of all sequences, H heads, E
head dim, N tokens of one sequence. A packing travels as two lists of integers, counts and lengths.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..dropout import drawn
from ..operators import operator
from ..registry import Call
from ..runtime import refuse_triton
from .varlen import Segments, longest

MAX_HEAD_DIM = 128

_COMMON = "int[] counts, int[] lengths, bool[] masked, Tensor? mask, Tensor? bias, Tensor? seed, float scale, float p"
_FORWARD = f"(Tensor qkv, {_COMMON}) -> (Tensor, Tensor)"
_BACKWARD = f"(Tensor grad_out, Tensor qkv, Tensor out, Tensor lse, {_COMMON}) -> (Tensor, Tensor)"


def refuse(call: Call) -> list[str]:
    """The reasons why the Triton kernels cannot run ``call``."""
    reasons = refuse_triton(call)
    if call.facts.get("return_weights"):
        reasons.append("never has the attention weights in memory, so it cannot return them")
    if (head_dim := call.facts.get("head_dim", 64)) > MAX_HEAD_DIM:
        reasons.append(f"has head dims up to {MAX_HEAD_DIM}, got {head_dim}")
    return reasons


def _fake(qkv, counts, lengths, masked, mask, bias, seed, scale, p):
    T, _, H, E = qkv.shape
    return qkv.new_empty(T, H, E), qkv.new_empty(H, T, dtype=torch.float32)


@operator("vatt_kernels::attention", _FORWARD, _fake)
def packed_attention(qkv, counts, lengths, masked, mask, bias, seed, scale, p):
    """Output (T, H, E) and log-sum-exp (H, T), see `triton_launch.forward`."""
    from . import triton_launch

    segments = tuple(zip(counts, lengths, strict=True))
    return triton_launch.forward(qkv, segments, masked, mask, bias, seed, scale, p)


def _fake_backward(grad_out, qkv, out, lse, counts, lengths, masked, mask, bias, seed, scale, p):
    return torch.empty_like(qkv), torch.empty_like(bias) if bias is not None else lse.new_empty(0)


@operator("vatt_kernels::attention_backward", _BACKWARD, _fake_backward)
def packed_attention_backward(grad_out, qkv, out, lse, counts, lengths, masked, mask, bias, seed, scale, p):
    """Gradients of qkv (T, 3, H, E) and of the bias (H, N, N), which is empty without one."""
    from . import triton_launch

    segments = tuple(zip(counts, lengths, strict=True))
    tensors = grad_out, qkv, out, lse
    grad_qkv, bias_PHNN = triton_launch.backward(*tensors, segments, masked, mask, bias, seed, scale, p)
    return grad_qkv, bias_PHNN.sum(0).to(bias.dtype) if bias is not None else bias_PHNN


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    qkv, counts, lengths, masked, mask, bias, seed, scale, p = inputs
    ctx.set_materialize_grads(False)
    ctx.packing, ctx.rates, ctx.with_bias = (counts, lengths, masked), (scale, p), bias is not None
    ctx.save_for_backward(qkv, *output, mask, bias, seed)


def _gradients(ctx: Any, grad_out: Tensor | None, _lse: Any) -> tuple[Tensor | None, ...]:
    qkv, out, lse, mask, bias, seed = ctx.saved_tensors
    if grad_out is None:
        return (None,) * 9
    grad_qkv, grad_bias = packed_attention_backward(
        grad_out.contiguous(), qkv, out, lse, *ctx.packing, mask, bias, seed, *ctx.rates
    )
    return grad_qkv, None, None, None, None, grad_bias if ctx.with_bias else None, None, None, None


packed_attention.gradient(_setup_context, _gradients)


def dense_attention(
    q_BNHE: Tensor,
    k_BNHE: Tensor,
    v_BNHE: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    scale: float,
    dropout_p: float,
    seed: Tensor | None = None,
) -> tuple[Tensor, None]:
    """Output (B, N, H, E); there are no weights. Copies the three tensors into one."""
    B, N, _, _ = q_BNHE.shape
    qkv_T3HE = torch.stack([q_BNHE, k_BNHE, v_BNHE], dim=2).flatten(0, 1)
    mask_T = None if mask is None else mask.flatten()
    return attention(qkv_T3HE, ((B, N),), mask_T, None, bias, scale, dropout_p, seed).unflatten(0, (B, N)), None


def attention(
    qkv_T3HE: Tensor,
    segments: Segments,
    mask_T: Tensor | None,
    masked: Sequence[bool] | None,
    bias_HNN: Tensor | None,
    scale: float,
    dropout_p: float,
    seed: Tensor | None = None,
) -> Tensor:
    """A launch for the long sequences and one for the short ones, each with a mask where there is one."""
    seed = drawn(seed, dropout_p, qkv_T3HE.device)
    # One byte per key, whatever the type of the mask.
    mask_T = None if mask_T is None else (mask_T != 0).to(torch.uint8).contiguous()
    if bias_HNN is not None:
        bias_HNN = bias_HNN.contiguous()
        assert bias_HNN.shape[-1] == longest(segments)
    counts, lengths = [count for count, _ in segments], [length for _, length in segments]
    flags = [mask_T is not None and has_mask for has_mask in (masked or [True] * len(segments))]
    mask_T = mask_T if any(flags) else None
    out, _ = packed_attention(
        qkv_T3HE.contiguous(), counts, lengths, flags, mask_T, bias_HNN, seed, float(scale), float(dropout_p)
    )
    return out
