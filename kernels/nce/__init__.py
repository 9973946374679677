"""NCE and MIL-NCE between local rows and the rows of all ranks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..registry import FLOATS, Call, dispatch, gradient, refuse_non_float, register
from ..runtime import refuse_triton, without_autocast
from ..types import check_types
from . import matmul, op, reference
from .reference import Rows

__all__ = ["Rows", "nce"]


def _refuse_triton(call: Call) -> list[str]:
    """Rows and products may be of two types."""
    products = getattr(torch, call.facts["precision"]) if "precision" in call.facts else call.dtype
    return refuse_triton(call) or refuse_triton(replace(call, dtype=products))


register("nce", "triton", op.nce, _refuse_triton)
register("nce", "matmul", matmul.nce, refuse_non_float)
register("nce", "torch", reference.nce, refuse_non_float)


def nce(
    first: Rows,
    second: Rows,
    *,
    temperature: float,
    kind: str = "asymmetric",
    precision: torch.dtype | None = None,
    backend: str = "auto",
) -> Tensor:
    """The loss of each local item, (B,), in the type of ``first.local``.

    The positives of item i are all pairs of its own candidates (multiple-instance NCE); everything else on any rank is
    a negative.

    Args:
        first, second: the two modalities, with the same B and B_all. On one process let ``all`` be the very tensor
            ``local``: then one matrix of similarities serves both directions, in half the time.
        temperature: divides the similarities.
        kind: "asymmetric": one softmax over [first i against all of second] and [all of first against second i],
            so the positives count twice in the denominator; the mask of ``first`` is not used. "symmetric": the sum of
            two losses, one per direction. Both as in the official code (utils/train/objectives.py); the paper's
            equations 4 and 5 count the positives once.
        precision: the type that rows are rounded to before their products, which are summed in float32 or wider; None:
            as they are. Gradients have the type of the rows. Products of float32 are three of tf32. For unit rows
            torch.float16 is 8 times as exact as torch.bfloat16; docs/kernels.md has the errors of both.
        backend: "auto", "triton" (streams over all rows; memory grows with the rows, not with the pairs), "matmul" (one
            matrix of similarities, which is kept; what "auto" takes on a CPU) or "torch" (the plain formulas).

    Returns:
        (B,), computed in at least float32. Items that a mask excludes have loss 0; the others are scaled by B / (number
        of valid local items), so that the mean over the batch is the mean over the valid items, and 0 if there is none.

    Raises:
        ValueError: shapes that do not fit, or an unknown ``kind``; the message names the argument.
        BackendError: the backend cannot run this call.
    """
    for name, rows in (("first", first), ("second", second)):
        if rows.local.ndim != 3 or rows.all.shape[1:] != rows.local.shape[1:]:
            raise ValueError(f"{name}: expected (B, C, D), got {tuple(rows.local.shape)} and {tuple(rows.all.shape)}")
        for label, mask, like in (("mask", rows.mask, rows.local), ("mask_all", rows.mask_all, rows.all)):
            if (mask is None) != (rows.mask is None) or (mask is not None and mask.shape != like.shape[:1]):
                raise ValueError(f"{name}.{label}: expected ({like.shape[0]},) beside a mask, got {mask}")
    if first.local.shape[0] != second.local.shape[0] or first.all.shape[0] != second.all.shape[0]:
        raise ValueError(f"second: {second.local.shape[0]} items, but first has {first.local.shape[0]}")
    if first.local.shape[2] != second.local.shape[2]:
        raise ValueError(f"second: width {second.local.shape[2]}, but first has {first.local.shape[2]}")
    if not temperature > 0:
        raise ValueError(f"temperature: expected more than 0, got {temperature}")
    if kind not in ("asymmetric", "symmetric"):
        raise ValueError(f"kind: {kind!r} is not one of 'asymmetric', 'symmetric'")
    others = {"first.all": first.all, "second.local": second.local, "second.all": second.all}
    check_types("nce", first.local.dtype, others)
    precision = precision or first.local.dtype
    if precision not in FLOATS:
        raise ValueError(f"precision: {precision} is not one of {', '.join(map(str, FLOATS))}")
    B, C, D = first.local.shape
    facts: dict[str, Any] = {"kind": kind, "width": D, "candidates": (C, second.local.shape[1])}
    facts |= {
        "precision": str(precision).removeprefix("torch."),
        "ranks": first.all.shape[0] // max(1, B),
        "masks": (first.mask is not None, second.mask is not None),
    }
    facts["gradient"] = gradient(first.local, second.local)
    call = Call(first.local.device, first.local.dtype, facts, count=B)
    with without_autocast(first.local.device):  # similarities over the temperature need all digits
        return dispatch("nce", backend, call)(first, second, temperature, kind, precision)
