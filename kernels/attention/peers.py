"""Attention of other packages, where they are installed: flash-attn 2 and 4, and xformers."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..registry import Call
from .sdpa import refuse_plain


def refuse(package: str, needs: str, dropout: bool = True) -> Callable[[Call], list[str]]:
    """Reasons of a backend that imports ``package`` (``needs``: what to install); ``dropout``: whether it has any."""

    def reasons(call: Call) -> list[str]:
        found = refuse_plain(call)
        if not _installed(package):
            found.append(f"{needs} is not installed")
        if not dropout and call.facts.get("dropout"):
            found.append("has no dropout")
        return found

    return reasons


def _installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # the parent of a dotted name is missing
        return False


def flash_attn_2(
    q: Tensor, k: Tensor, v: Tensor, mask: None, bias: None, scale: float, dropout_p: float
) -> tuple[Tensor, None]:
    from flash_attn import flash_attn_func

    return flash_attn_func(q, k, v, dropout_p=dropout_p, softmax_scale=scale), None


def flash_attn_4(
    q: Tensor, k: Tensor, v: Tensor, mask: None, bias: None, scale: float, dropout_p: float
) -> tuple[Tensor, None]:
    from flash_attn.cute import flash_attn_func

    out: Any = flash_attn_func(q, k, v, softmax_scale=scale)
    return (out[0] if isinstance(out, tuple) else out), None


def xformers(
    q: Tensor, k: Tensor, v: Tensor, mask: None, bias: None, scale: float, dropout_p: float
) -> tuple[Tensor, None]:
    from xformers.ops import memory_efficient_attention

    return memory_efficient_attention(q, k, v, p=dropout_p, scale=scale), None
