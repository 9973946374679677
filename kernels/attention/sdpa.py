"""Attention through PyTorch's scaled_dot_product_attention: its own choice, or one of its kernels by name."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..registry import Call, refuse_non_float
from .reference import additive

HALF = (torch.float16, torch.bfloat16)


def refuse(call: Call) -> list[str]:
    reasons = refuse_non_float(call)
    if call.facts.get("return_weights"):
        reasons.append("cannot return the attention weights")
    return reasons


def refuse_plain(call: Call) -> list[str]:
    """Reasons of the kernels that take queries, keys and values alone, in half precision on a GPU."""
    reasons = refuse(call)
    if call.device.type != "cuda":
        reasons.append("runs on a CUDA device")
    if call.dtype.is_floating_point and call.dtype not in HALF:
        reasons.append(f"has float16 and bfloat16, got {call.dtype}")
    for name in ("mask", "bias"):
        if call.facts.get(name):
            reasons.append(f"takes no {name}")
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


def with_kernel(kernel: SDPBackend) -> Callable[..., tuple[Tensor, None]]:
    """`attention`, held to one of PyTorch's kernels."""

    def run(*arguments: Tensor | float | None) -> tuple[Tensor, None]:
        with sdpa_kernel(kernel):
            return attention(*arguments)  # type: ignore[arg-type]

    return run
