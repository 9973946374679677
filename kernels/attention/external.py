"""Attention of others: PyTorch's scaled_dot_product_attention, flash-attn 2 and 4, and xformers, where they are
installed; and the order in which "auto" tries all backends.

Every function takes (q, k, v, mask, bias, scale, dropout_p), with q, k, v of shape (B, N, H, E), and gives the output
(B, N, H, E) and None for the weights, which none of them has. Of a seed and a place they make no use: they draw their
masks from PyTorch's generator.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..registry import Call, refuse_non_float
from ..runtime import capability, installed
from .reference import additive

HALF = (torch.float16, torch.bfloat16)
MAX_FLASH_HEAD_DIM = 256

# What "auto" takes where nothing was measured. On a GPU PyTorch's kernels come first: one that was never checked on the
# device at hand may be wrong in silence, by races or layouts that no other machine shows, and costs more than a slower
# one that many have used. That holds for a mask or a bias too: sentences are a few percent of a step, and PyTorch's
# memory-efficient kernel takes both. A packed batch of which only some sequences have a mask (VATT-MA) is cut into its
# segments, so that its video and sound still take the flash kernel.
DISPATCH_ORDER: dict[str, tuple[str, ...]] = {
    "cuda": ("sdpa_flash", "sdpa", "triton", "torch"),
    "cuda, mask or bias": ("sdpa", "triton", "torch"),
    "cpu": ("sdpa", "torch"),
    # With dropout PyTorch's SDPA has no fused way on a CPU, and is slower there than the plain operations (measured:
    # the rows "attention video_785_h12" of bench/results/results.csv).
    "cpu, dropout": ("cpu", "torch", "sdpa"),
}


def dispatch_order(call: Call) -> tuple[str, ...]:
    """Which backends "auto" tries first; the others follow in the order of registration."""
    facts = call.facts
    if call.device.type == "cuda":
        return DISPATCH_ORDER["cuda, mask or bias" if facts.get("mask") or facts.get("bias") else "cuda"]
    return DISPATCH_ORDER["cpu, dropout" if facts.get("dropout") else "cpu"]


def refuse_sdpa(call: Call) -> list[str]:
    """The reasons of PyTorch's SDPA, whichever of its kernels it takes."""
    reasons = refuse_non_float(call)
    if call.facts.get("return_weights"):
        reasons.append("cannot return the attention weights")
    return reasons


def refuse_plain(call: Call) -> list[str]:
    """The reasons of kernels that take queries, keys and values alone, in half precision on a GPU."""
    reasons = refuse_sdpa(call)
    if call.device.type != "cuda":
        reasons.append("runs on a CUDA device")
    if call.dtype.is_floating_point and call.dtype not in HALF:
        reasons.append(f"has float16 and bfloat16, got {call.dtype}")
    for name in ("mask", "bias"):
        if call.facts.get(name):
            reasons.append(f"takes no {name}")
    return reasons


def refuse_flash(call: Call) -> list[str]:
    """The reasons of PyTorch's flash kernel."""
    reasons = refuse_plain(call)
    if (head_dim := call.facts.get("head_dim", 64)) > MAX_FLASH_HEAD_DIM:
        reasons.append(f"has head dims up to {MAX_FLASH_HEAD_DIM}, got {head_dim}")
    if call.device.type == "cuda" and torch.cuda.is_available():
        if not torch.backends.cuda.is_flash_attention_available():
            reasons.append("is not in this build of PyTorch")
        if capability(call.device) < (8, 0):
            reasons.append("needs compute capability 8.0 (A100) or newer")
    return reasons


def refuse_package(package: str, needs: str, dropout: bool = True) -> Callable[[Call], list[str]]:
    """The reasons of kernels from ``package`` (``needs``: what to install); ``dropout``: whether they have any."""

    def reasons(call: Call) -> list[str]:
        found = refuse_plain(call)
        if not installed(package):
            found.append(f"{needs} is not installed")
        if not dropout and call.facts.get("dropout"):
            found.append("has no dropout")
        return found

    return reasons


def sdpa(
    q_BNHE: Tensor,
    k_BNHE: Tensor,
    v_BNHE: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    scale: float,
    dropout_p: float,
    *_seeded: object,
) -> tuple[Tensor, None]:
    """PyTorch's scaled_dot_product_attention, with the kernel that it selects itself.

    An item without a key to see gets scores of 0 in place of lowered ones, which float16 cannot lower far enough and
    whose log-sum-exp has lost the number of keys. So its weights are equal as in the reference, but its queries, keys
    and biases have no gradient.
    """
    added = additive(mask, bias, q_BNHE.dtype)
    if mask is not None and added is not None:
        blind_B111 = (mask == 0).all(1)[:, None, None, None]
        q_BNHE, added = q_BNHE.masked_fill(blind_B111, 0), added.masked_fill(blind_B111, 0)
    out_BHNE = F.scaled_dot_product_attention(
        q_BNHE.transpose(1, 2),
        k_BNHE.transpose(1, 2),
        v_BNHE.transpose(1, 2),
        attn_mask=added,
        dropout_p=dropout_p,
        scale=scale,
    )
    return out_BHNE.transpose(1, 2), None


def sdpa_with(kernel: SDPBackend) -> Callable[..., tuple[Tensor, None]]:
    """`sdpa`, held to one of PyTorch's kernels."""

    def run(*arguments: object) -> tuple[Tensor, None]:
        with sdpa_kernel(kernel):
            return sdpa(*arguments)  # type: ignore[arg-type]

    return run


def flash_attn_2(
    q: Tensor, k: Tensor, v: Tensor, mask: None, bias: None, scale: float, dropout_p: float, *_seeded: object
) -> tuple[Tensor, None]:
    """flash-attn 2."""
    from flash_attn import flash_attn_func

    return flash_attn_func(q, k, v, dropout_p=dropout_p, softmax_scale=scale), None


def flash_attn_4(
    q: Tensor, k: Tensor, v: Tensor, mask: None, bias: None, scale: float, dropout_p: float, *_seeded: object
) -> tuple[Tensor, None]:
    """flash-attn 4, whose function returns a tuple in some versions."""
    from flash_attn.cute import flash_attn_func

    out: Any = flash_attn_func(q, k, v, softmax_scale=scale)
    return (out[0] if isinstance(out, tuple) else out), None


def xformers(
    q: Tensor, k: Tensor, v: Tensor, mask: None, bias: None, scale: float, dropout_p: float, *_seeded: object
) -> tuple[Tensor, None]:
    """xformers' memory-efficient attention."""
    from xformers.ops import memory_efficient_attention

    return memory_efficient_attention(q, k, v, p=dropout_p, scale=scale), None
