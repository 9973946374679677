"""Attention on a CPU, in one autograd function: a few heads at a time, whose scores stay in the cache from the product
to the weighted sum, and one array of weights for the backward pass.

That array holds the weights before dropout; the sign of a weight says whether it is kept, so there is no mask beside
it. With S all weights, W the kept ones, c what dropout multiplies them with, and g the gradient of the output:

    out = c W v                                       dv = c W^T g
    ds  = W * (c g v^T) - S * rowsum(g * out)         dq = scale ds k,  dk = scale ds^T q

The hash of the mask gives the scores of two keys of distance 8 side by side (`dropout.tile_keep_mask`). So keys and
values lie in that order while there is dropout (`_order`); softmax and sums know no order.

Shapes: B sequences of N tokens, P = B * H pairs of a sequence and a head, G of them at a time, E head dim, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from .. import cpu
from ..dropout import MA, MB, drawn, keep_scale, row_keys, tile_column_keys
from ..registry import Call
from . import reference
from .varlen import Place, Segments

GROUP = 3 << 18  # scores that a thread works on at a time: an array of 3 MB, a head of 785 tokens
TILE = 16  # tokens that share the hashes of 8


def refuse(call: Call) -> list[str]:
    """The reasons why this cannot run ``call``."""
    reasons = cpu.refuse_cpu(call)
    if call.facts.get("return_weights"):
        reasons.append("has the weights before dropout alone, so it cannot return them")
    return reasons


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv_BN3HE, mask_BN, bias_HNN, seed, place, scale, p):
        B, N, _, H, E = qkv_BN3HE.shape
        q_PNE, k_PNE, v_PNE = split = _split(qkv_BN3HE, seed is not None)
        q_PNE.mul_(scale)
        added = _added(mask_BN, bias_HNN, (B, H, N), q_PNE.dtype, seed is not None)
        weights_PNN, out_PNE = q_PNE.new_empty(B * H, N, N), torch.empty_like(q_PNE)
        G = _group(B, H, N, bias_HNN is not None)
        scores = None if seed is None else _Scores(seed, place, (B, H, N), G, p, q_PNE.dtype)
        scratch_GNN = weights_PNN if scores is None else torch.empty_like(weights_PNN[:G])
        terms = () if added is None else added.split(G)
        for number, (weights, q, k, v, out) in enumerate(cpu.blocks(G, weights_PNN, q_PNE, k_PNE.mT, v_PNE, out_PNE)):
            kept = weights if scores is None else scratch_GNN[: len(weights)]
            torch.bmm(q, k, out=kept)
            if terms:
                kept.add_(terms[number])
            torch.softmax(kept, -1, out=kept)
            if scores is not None:
                torch.copysign(kept, scores(number), out=weights)
                torch.clamp(weights, min=0.0, out=kept)
            torch.bmm(kept, v, out=out)
        out_BNHE = (out_PNE.view(B, H, N, E).transpose(1, 2) * keep_scale(p)).contiguous()
        ctx.save_for_backward(qkv_BN3HE, mask_BN, bias_HNN, seed, split, weights_PNN, out_BNHE)
        ctx.place, ctx.scale, ctx.p = place, scale, p
        return out_BNHE

    @staticmethod
    def backward(ctx: Any, grad_BNHE):
        qkv_BN3HE, mask_BN, bias_HNN, seed, split, weights_PNN, out_BNHE = ctx.saved_tensors
        of_qkv, _, of_bias, *_ = ctx.needs_input_grad
        if torch.is_grad_enabled():
            others = mask_BN, ctx.scale, ctx.p, seed, ctx.place
            found = cpu.differentiable(_plain, (qkv_BN3HE, bias_HNN), others, grad_BNHE, (of_qkv, of_bias))
            return found[0], None, found[1], None, None, None, None
        B, N, H, E = grad_BNHE.shape
        q_PNE, k_PNE, v_PNE = split
        row_sums_PN1 = (grad_BNHE * out_BNHE).sum(-1).transpose(1, 2).reshape(B * H, N, 1)
        grad_PNE = (grad_BNHE.transpose(1, 2) * keep_scale(ctx.p)).reshape(B * H, N, E)
        grads_q, grads_k, grads_v = grads = torch.empty_like(split)
        grad_bias = torch.zeros_like(bias_HNN) if of_bias else None
        G = _group(B, H, N, bias_HNN is not None)
        kept_GNN, ds_GNN = (torch.empty_like(weights_PNN[:G]) for _ in range(2))
        arrays = weights_PNN, grad_PNE, row_sums_PN1, q_PNE, k_PNE, v_PNE.mT, grads_q, grads_k, grads_v
        for weights, grad, row_sums, q, k, v, grad_q, grad_k, grad_v in cpu.blocks(G, *arrays):
            kept, ds = kept_GNN[: len(weights)], ds_GNN[: len(weights)]
            torch.clamp(weights, min=0.0, out=kept)
            torch.bmm(kept.mT, grad, out=grad_v)
            torch.bmm(grad, v, out=ds)
            ds.mul_(kept).addcmul_(torch.abs(weights, out=kept), row_sums, value=-1)
            if grad_bias is not None:
                grad_bias += ds.view(-1, H, N, N).sum(0)
            torch.bmm(ds, k, out=grad_q)
            torch.bmm(ds.mT, q, out=grad_k)
        grads_q.mul_(ctx.scale)
        if grad_bias is not None and seed is not None:
            grad_bias = torch.empty_like(grad_bias).index_copy_(2, _order(N), grad_bias)
        return _join(grads.view(3, B, H, N, E), seed is not None), None, grad_bias, None, None, None, None


def _plain(qkv_BN3HE: Tensor, bias_HNN: Tensor | None, mask_BN: Tensor | None, *others: Any) -> Tensor:
    q_BNHE, k_BNHE, v_BNHE = qkv_BN3HE.unbind(2)
    return reference.attention(q_BNHE, k_BNHE, v_BNHE, mask_BN, bias_HNN, *others)[0]


class _Scores:
    """Of the dropout mask of a group of pairs: (G, N, N), positive where a weight is kept, the keys in the order of
    `_order`. Valid until the next call."""

    def __init__(
        self, seed: Tensor, place: Place, shape: tuple[int, int, int], most: int, p: float, dtype: torch.dtype
    ) -> None:
        """``most`` pairs in a group; ``shape``: (B, H, N)."""
        (first, total), (B, H, N) = place, shape
        tiles, self._whole, self._p = -(-N // TILE), N // TILE * TILE, p
        tokens = torch.arange(8 * tiles)
        tokens = tokens // 8 * TILE + tokens % 8  # the first of the two that share a key
        firsts = first + N * torch.arange(B)[:, None] + total * torch.arange(H)
        keys_PK = cpu.signed(row_keys(seed, firsts.flatten()[:, None] + tokens))
        self._rows = keys_PK[..., None].split(most)
        self._columns_K = cpu.signed_column_keys(tile_column_keys(tokens))
        self._hashes = torch.empty(3, most, len(tokens), len(tokens), dtype=torch.int32)
        self._scores = torch.empty(most, tiles, 2, 8, N, dtype=dtype)

    def __call__(self, number: int) -> Tensor:
        """Of the group ``number``."""
        rows, whole = self._rows[number], self._whole
        (x, half, y), scores = self._hashes[:, : len(rows)], self._scores[: len(rows)]
        cpu.mix(torch.bitwise_xor(rows, self._columns_K, out=x), y)
        for number, multiplier in enumerate((MA, MB)):  # queries, and those 8 behind them
            found = cpu.finish(torch.mul(x, cpu.as_int32(multiplier), out=half), y).unflatten(1, (-1, 8))
            to = scores[:, :, number]
            to[..., :whole].copy_(found[..., :whole])
            for parity in range(2 if whole < scores.shape[-1] else 0):
                last = to[..., whole + 8 * parity : whole + 8 * parity + 8]
                last.copy_(found[..., whole + parity :: 2][..., : last.shape[-1]])
        N = scores.shape[-1]
        return scores.flatten(1, 3)[:, :N].sub_(cpu.least_kept(self._p))


def _group(B: int, H: int, N: int, whole_items: bool) -> int:
    """How many pairs are worked on together: each thread has its own in a product. ``whole_items``: all heads of an
    item."""
    pairs = torch.get_num_threads() * max(1, GROUP // max(1, N * N))
    pairs = max(1, pairs // H) * H if whole_items else pairs
    return min(pairs, max(1, B * H))


def _order(N: int) -> Tensor:
    """The keys as they lie while there is dropout: 0, 8, 1, 9, ... 7, 15, 16, 24, ...; the last, less than 16, as they
    are."""
    tokens, whole = torch.arange(N), N // TILE * TILE
    return torch.cat([tokens[:whole].view(-1, 2, 8).mT.flatten(), tokens[whole:]])


def _ordered(straight: Tensor, ordered: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Views of the same tokens of both, where ``ordered`` has the order of `_order`; both (..., N, E)."""
    whole = straight.shape[-2] // TILE * TILE
    tiles = straight[..., :whole, :].unflatten(-2, (-1, 2, 8)).transpose(-3, -2)
    last = straight[..., whole:, :], ordered[..., whole:, :]
    return [(tiles, ordered[..., :whole, :].unflatten(-2, (-1, 8, 2))), last]


def _split(qkv_BN3HE: Tensor, in_order: bool) -> Tensor:
    """A copy (3, P, N, E), keys and values in the order of `_order`, if so."""
    B, N, _, H, E = qkv_BN3HE.shape
    source, split = qkv_BN3HE.permute(2, 0, 3, 1, 4), qkv_BN3HE.new_empty(3, B, H, N, E)
    if in_order:
        split[0].copy_(source[0])
        for straight, ordered in _ordered(source[1:], split[1:]):
            ordered.copy_(straight)
    else:
        split.copy_(source)
    return split.flatten(1, 2)


def _join(split: Tensor, in_order: bool) -> Tensor:
    """The opposite of `_split`: (3, B, H, N, E) as (B, N, 3, H, E)."""
    _, B, H, N, E = split.shape
    joined = split.new_empty(B, N, 3, H, E)
    to = joined.permute(2, 0, 3, 1, 4)
    if in_order:
        to[0].copy_(split[0])
        for straight, ordered in _ordered(to[1:], split[1:]):
            straight.copy_(ordered)
    else:
        to.copy_(split)
    return joined


def _added(
    mask_BN: Tensor | None, bias_HNN: Tensor | None, shape: tuple[int, int, int], dtype: torch.dtype, in_order: bool
) -> Tensor | None:
    """What is added to the scores: (P, 1, N), or (P, N, N) with a bias; None for nothing."""
    if in_order:
        order = _order(shape[2])
        mask_BN = None if mask_BN is None else mask_BN[:, order]
        bias_HNN = None if bias_HNN is None else bias_HNN[..., order]
    added = reference.additive(mask_BN, bias_HNN, dtype)
    return None if added is None else added.expand(*shape[:2], -1, -1).flatten(0, 1)


def packed_attention(
    qkv_T3HE: Tensor,
    segments: Segments,
    mask_T: Tensor | None,
    masked: Sequence[bool] | None,
    bias_HNN: Tensor | None,
    scale: float,
    dropout_p: float,
    seed: Tensor | None = None,
) -> Tensor:
    """Output (T, H, E), a segment at a time."""
    seed = drawn(seed, dropout_p, qkv_T3HE.device)
    ends = list(accumulate(count * length for count, length in segments))
    # One segment is the whole; a slice of it would cost a copy of its gradient.
    parts = [qkv_T3HE] if len(segments) == 1 else qkv_T3HE.tensor_split(ends[:-1])
    outs = []
    for part, end, (count, length), has_mask in zip(parts, ends, segments, masked or [True] * len(ends), strict=True):
        first = end - count * length
        mask_BN = mask_T[first:end].unflatten(0, (count, length)) if mask_T is not None and has_mask else None
        place, part_BN3HE = (first, qkv_T3HE.shape[0]), part.unflatten(0, (count, length))
        outs.append(_Attention.apply(part_BN3HE, mask_BN, bias_HNN, seed, place, scale, dropout_p).flatten(0, 1))
    return torch.cat(outs) if len(outs) != 1 else outs[0]


def attention(
    q_BNHE: Tensor,
    k_BNHE: Tensor,
    v_BNHE: Tensor,
    mask_BN: Tensor | None,
    bias_HNN: Tensor | None,
    scale: float,
    dropout_p: float,
    seed: Tensor | None = None,
) -> tuple[Tensor, None]:
    """Output (B, N, H, E); there are no weights. Copies the three tensors into one."""
    qkv_BN3HE = torch.stack([q_BNHE, k_BNHE, v_BNHE], dim=2)
    seed, place = drawn(seed, dropout_p, q_BNHE.device), (0, q_BNHE.shape[0] * q_BNHE.shape[1])
    return _Attention.apply(qkv_BN3HE, mask_BN, bias_HNN, seed, place, scale, dropout_p), None
