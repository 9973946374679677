"""Packed sequences for a backend that knows dense batches only: one call a segment, without padding."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .tiles import Segments

Dense = Callable[..., tuple[Tensor, Tensor | None]]


def by_segment(dense: Dense) -> Callable[..., Tensor]:
    """A packed attention made of calls of ``dense`` (q, k, v, mask, bias, scale, dropout);
    ``masked`` says which segments the mask concerns (None: all)."""

    def run(
        qkv_T3HE: Tensor,
        segments: Segments,
        mask_T: Tensor | None,
        masked: Sequence[bool] | None,
        bias_HNN: Tensor | None,
        scale: float,
        dropout_p: float,
    ) -> Tensor:
        outs, first = [], 0
        for (count, length), has_mask in zip(segments, masked or (True,) * len(segments), strict=True):
            part = slice(first, first + count * length)
            first = part.stop
            q_BNHE, k_BNHE, v_BNHE = qkv_T3HE[part].unflatten(0, (count, length)).unbind(2)
            mask_BN = mask_T[part].unflatten(0, (count, length)) if mask_T is not None and has_mask else None
            out_BNHE, _ = dense(q_BNHE, k_BNHE, v_BNHE, mask_BN, bias_HNN, scale, dropout_p)
            outs.append(out_BNHE.flatten(0, 1))
        return torch.cat(outs) if len(outs) != 1 else outs[0]

    return run
