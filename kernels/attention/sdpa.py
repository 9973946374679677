"""Attention through PyTorch's fused scaled_dot_product_attention."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..backends import Call, refuse_non_float
from .reference import additive


def refuse(call: Call) -> list[str]:
    reasons = refuse_non_float(call)
    if call.facts.get("return_weights"):
        reasons.append("cannot return the attention weights")
    return reasons


def attention(
    q_BNHE: Tensor,
    k_BNHE: Tensor,
    v_BNHE: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    scale: float,
    dropout_p: float,
) -> tuple[Tensor, None]:
    """Output (B, N, H, E); there are no weights."""
    out_BHNE = F.scaled_dot_product_attention(
        q_BNHE.transpose(1, 2),
        k_BNHE.transpose(1, 2),
        v_BNHE.transpose(1, 2),
        attn_mask=additive(mask, bias, q_BNHE.dtype),
        dropout_p=dropout_p,
        scale=scale,
    )
    return out_BHNE.transpose(1, 2), None
