"""NCE and MIL-NCE in plain PyTorch, and the rows that they compare.

Shapes: B local items, A items of all ranks, C and S candidates of the first and the second modality, D width, X all
pairs of a local item with a candidate anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

INVALID = 1e9  # subtracted from the similarity with an invalid item


@dataclass(frozen=True)
class Rows:
    """L2-normalised embeddings of one modality in one batch, on this rank and on all ranks.

    ``local`` (B, C, D) holds C candidates an item; ``all`` (B_all, C, D) the same rows of every rank in rank order.
    The masks (B,) and (B_all,) are 1 for valid items and 0 for missing ones, or None.
    """

    local: Tensor
    all: Tensor
    mask: Tensor | None = None
    mask_all: Tensor | None = None


def nce(first: Rows, second: Rows, temperature: float, kind: str, precision: torch.dtype | None = None) -> Tensor:
    """The losses (B,) as `vatt.kernels.nce.nce` describes them."""
    dtype = first.local.dtype
    first, second = at_least_fp32(first, precision), at_least_fp32(second, precision)
    if kind == "asymmetric":
        first = replace(first, mask=None, mask_all=None)
        return scale(_asymmetric(first, second, temperature), second.mask).to(dtype)
    return scale(scale(_symmetric(first, second, temperature), first.mask), second.mask).to(dtype)


def at_least_fp32(rows: Rows, precision: torch.dtype | None) -> Rows:
    """The rows rounded to ``precision``, then in the type of the computation: the similarities are divided by a small
    temperature, and 1e9 is beyond float16. Where ``all`` is ``local`` it stays so."""
    dtype = torch.promote_types(rows.local.dtype, torch.float32)
    mask, mask_all = (None if m is None else m.to(dtype) for m in (rows.mask, rows.mask_all))
    local = _rounded(rows.local, precision, dtype)
    everywhere = local if rows.all is rows.local else _rounded(rows.all, precision, dtype)
    return replace(rows, local=local, all=everywhere, mask=mask, mask_all=mask_all)


def _rounded(x: Tensor, precision: torch.dtype | None, dtype: torch.dtype) -> Tensor:
    """``x`` rounded to ``precision``, in ``dtype``; its gradient is not rounded."""
    exact = x.to(dtype)
    if precision is None or torch.finfo(precision).eps <= torch.finfo(x.dtype).eps:
        return exact
    return exact + (exact.to(precision).to(dtype) - exact).detach()


def _asymmetric(first: Rows, second: Rows, temperature: float) -> Tensor:
    forward_BX = _lower(_similar(first, second) / temperature, first, second)
    backward_BX = _lower(_similar(second, first) / temperature, second, first)
    return torch.cat([forward_BX, backward_BX], dim=1).logsumexp(1) - positive(first, second, temperature)


def _symmetric(first: Rows, second: Rows, temperature: float) -> Tensor:
    # Lowered before the division by the temperature, unlike the asymmetric loss: as the official code does.
    forward_BX = _lower(_similar(first, second), first, second) / temperature
    backward_BX = _lower(_similar(second, first), second, first) / temperature
    return forward_BX.logsumexp(1) + backward_BX.logsumexp(1) - 2 * positive(first, second, temperature)


def _similar(own: Rows, far: Rows) -> Tensor:
    """Dot products of each local item of ``own`` with all items of ``far``, (B, X), the far item slowest."""
    return torch.einsum("bcd,asd->bacs", own.local, far.all).flatten(1)


def positive(first: Rows, second: Rows, temperature: float) -> Tensor:
    """(B,): log-sum-exp of the similarities of each item's own pairs."""
    pairs_BCS = torch.einsum("bcd,bsd->bcs", first.local, second.local)
    return (pairs_BCS / temperature).flatten(1).logsumexp(1)


def _lower(similar_BX: Tensor, own: Rows, far: Rows) -> Tensor:
    """Lowers the similarities of invalid local items (rows) and of invalid far items (columns)."""
    if own.mask is not None:
        similar_BX = similar_BX - INVALID * (1 - own.mask)[:, None]
    if far.mask_all is not None:
        pairs = similar_BX.shape[1] // max(1, far.mask_all.shape[0])
        similar_BX = similar_BX - INVALID * (1 - far.mask_all).repeat_interleave(pairs)
    return similar_BX


def scale(losses_B: Tensor, mask_B: Tensor | None) -> Tensor:
    """Makes the mean of the result over the batch the mean of the losses over the valid items, or 0 without any."""
    if mask_B is None:
        return losses_B
    valid = mask_B.sum()
    scale = torch.where(valid > 0, mask_B.numel() / valid.clamp(min=1), torch.zeros_like(valid))
    return losses_B * (mask_B * scale)
