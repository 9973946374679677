"""Multi-head self-attention with a key mask and an additive bias, for dense batches and for packed sequences."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.nn.attention import SDPBackend

from ..dropout import check_dropout
from ..registry import Call, dispatch, gradient, refuse_non_float, register, set_dispatch_order
from ..types import of_a_product
from . import cpu, external, op, reference
from .varlen import Dense, Segments, by_segment, longest, segments_of, tokens

__all__ = ["Segments", "attention", "packed_attention", "segments_of"]

_DENSE: dict[str, tuple[Dense, Callable[[Call], list[str]]]] = {
    "triton": (op.dense_attention, op.refuse),
    "cpu": (cpu.attention, cpu.refuse),
    "sdpa": (external.sdpa, external.refuse_sdpa),
    "sdpa_flash": (external.sdpa_with(SDPBackend.FLASH_ATTENTION), external.refuse_flash),
    "sdpa_cudnn": (external.sdpa_with(SDPBackend.CUDNN_ATTENTION), external.refuse_plain),
    "flash_attn": (external.flash_attn_2, external.refuse_package("flash_attn", "flash-attn 2")),
    "flash_attn_4": (
        external.flash_attn_4,
        external.refuse_package("flash_attn.cute", "flash-attn 4", dropout=False),
    ),
    "xformers": (external.xformers, external.refuse_package("xformers", "xformers")),
    "torch": (reference.attention, refuse_non_float),
}
_PACKED = {"triton": op.attention, "cpu": cpu.packed_attention}  # the others run a segment at a time
for _name, (_run, _refuse) in _DENSE.items():
    _ours = _name in ("triton", "cpu", "torch")
    register("attention", _name, _run, _refuse, twin=_ours)
    register("packed_attention", _name, _PACKED.get(_name) or by_segment(_run), _refuse, twin=_ours)
set_dispatch_order("attention", external.dispatch_order)
set_dispatch_order("packed_attention", external.dispatch_order)


def attention(
    q_BNHE: Tensor,
    k_BNHE: Tensor,
    v_BNHE: Tensor,
    *,
    mask: Tensor | None = None,
    bias: Tensor | None = None,
    scale: float,
    dropout_p: float = 0.0,
    seed: Tensor | None = None,
    return_weights: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """softmax(q k^T * scale + bias + mask) v.

    Args:
        q_BNHE, k_BNHE, v_BNHE: (B, N, H, E), one floating-point type. `packed_attention` reads one tensor that holds
            all three, without a copy.
        mask: (B, N) over the keys, nonzero where a key may be seen. Where an item has no key to see, all weights are
            equal, in every type and backend (in the official code, -1e9 swallows the scores in float32). The gradient
            of q, k and bias of such an item is the official one in "torch", "cpu" and "triton", and 0 in "sdpa".
        bias: (H, N, N), finite, of any floating-point type, added to the scores of every item; differentiable.
        scale: factor of the scores, 1/sqrt(E) or, for T5, 1.
        dropout_p: dropout of the weights.
        seed: (1,) or longer, int64, of which the first number counts. The mask of the dropout is a function of it, the
            same in "triton", "cpu" and "torch"; the backends of others ignore it. None draws one from PyTorch's
            generator.
        return_weights: also return the weights (B, H, N, N) after dropout; the "torch" backend alone can.
        backend: "auto" (by the dispatch order in `external.py`), "triton" (flash attention, this project's), "cpu" (in
            place, for training on a CPU), "sdpa" (PyTorch's scaled_dot_product_attention), "sdpa_flash" and
            "sdpa_cudnn" (one of its kernels), "flash_attn", "flash_attn_4", "xformers" (where installed), or "torch".

    Returns:
        (B, N, H, E), or this and the weights, of the type of the queries; under autocast of its type.

    Raises:
        ValueError: shapes or types that do not fit; the message names the argument.
        BackendError: the backend cannot run this call.
    """
    if q_BNHE.ndim != 4:
        raise ValueError(f"q_BNHE: expected 4 dimensions, got {tuple(q_BNHE.shape)}")
    for name, value in (("k_BNHE", k_BNHE), ("v_BNHE", v_BNHE)):
        if value.shape != q_BNHE.shape:
            raise ValueError(f"{name}: {tuple(value.shape)} differs from q_BNHE {tuple(q_BNHE.shape)}")
    q_BNHE, k_BNHE, v_BNHE = of_a_product("attention", q_BNHE=q_BNHE, k_BNHE=k_BNHE, v_BNHE=v_BNHE)
    B, N, H, _ = q_BNHE.shape
    if mask is not None and mask.shape != (B, N):
        raise ValueError(f"mask: expected {(B, N)}, got {tuple(mask.shape)}")
    if bias is not None and bias.shape != (H, N, N):
        raise ValueError(f"bias: expected {(H, N, N)}, got {tuple(bias.shape)}")
    check_dropout("attention", dropout_p, seed, q_BNHE.device)
    call = _call(q_BNHE, ((B, N),), None, mask, bias, dropout_p, return_weights)
    run = dispatch("attention", backend, call)
    out_BNHE, weights_BHNN = run(q_BNHE, k_BNHE, v_BNHE, mask, bias, scale, dropout_p, seed)
    return (out_BNHE, weights_BHNN) if return_weights else out_BNHE


def packed_attention(
    qkv_T3HE: Tensor,
    segments: Segments | None = None,
    *,
    cu_seqlens: Tensor | Sequence[int] | None = None,
    mask: Tensor | None = None,
    masked: Sequence[bool] | None = None,
    bias: Tensor | None = None,
    scale: float,
    dropout_p: float = 0.0,
    seed: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """`attention` within each of several sequences, which are packed one after the other into T rows.

    Args:
        qkv_T3HE: (T, 3, H, E), queries, keys and values of all tokens.
        segments: ((count, length), ...), count sequences of length tokens each, in the order of the rows.
        cu_seqlens: instead of segments, the boundaries (0, n_1, n_1 + n_2, ..., T) of the sequences. The host needs
            them for the launch, so a tensor on a GPU makes it wait.
        mask: (T,), nonzero where a key may be seen.
        masked: for each segment, whether the mask hides anything in it; None if it may in all of them. The mask is not
            read for the other segments.
        bias: (H, N, N), finite, where all sequences have the same length N.
        scale, dropout_p, seed, backend: as in `attention`.

    Returns:
        (T, H, E).

    Raises:
        ValueError: shapes that do not fit; the message names the argument.
        BackendError: the backend cannot run this call.
    """
    if qkv_T3HE.ndim != 4 or qkv_T3HE.shape[1] != 3:
        raise ValueError(f"qkv_T3HE: expected (T, 3, H, E), got {tuple(qkv_T3HE.shape)}")
    T, _, H, _ = qkv_T3HE.shape
    if (segments is None) == (cu_seqlens is None):
        raise ValueError("segments: give either segments or cu_seqlens")
    if segments is None:
        assert cu_seqlens is not None
        segments = segments_of(cu_seqlens)
    if any(count < 0 or length < 0 for count, length in segments):
        raise ValueError(f"segments: expected counts and lengths of 0 or more, got {segments}")
    if tokens(segments) != T:
        raise ValueError(f"segments: {tokens(segments)} tokens, but qkv_T3HE has {T}")
    if mask is not None and mask.shape != (T,):
        raise ValueError(f"mask: expected ({T},), got {tuple(mask.shape)}")
    if masked is not None and len(masked) != len(segments):
        raise ValueError(f"masked: expected {len(segments)} entries, one a segment, got {len(masked)}")
    N = longest(segments)
    if bias is not None and (bias.shape != (H, N, N) or len(segments) != 1):
        raise ValueError(f"bias: expected {(H, N, N)} and sequences of one length, got {tuple(bias.shape)}, {segments}")
    (qkv_T3HE,) = of_a_product("packed_attention", qkv_T3HE=qkv_T3HE)
    check_dropout("packed_attention", dropout_p, seed, qkv_T3HE.device)
    call = _call(qkv_T3HE, segments, masked, mask, bias, dropout_p, False)
    run = dispatch("packed_attention", backend, call)
    return run(qkv_T3HE, segments, mask, masked, bias, scale, dropout_p, seed)


def _call(
    x: Tensor,
    segments: Segments,
    masked: Sequence[bool] | None,
    mask: Tensor | None,
    bias: Tensor | None,
    dropout_p: float,
    weights: bool,
) -> Call:
    facts: dict[str, Any] = {
        "heads": x.shape[-2],
        "head_dim": x.shape[-1],
        "mask": mask is not None,
        "bias": bias is not None,
    }
    # (share of the sequences, length, whether the mask concerns them) of each segment.
    flags = (mask is not None,) * len(segments) if mask is None or masked is None else masked
    count = segments[0][0] if len(segments) == 1 else math.gcd(*[count for count, _ in segments])
    facts["sequences"] = tuple(
        (number // max(1, count), length, flag) for (number, length), flag in zip(segments, flags, strict=True)
    )
    facts |= {"dropout": dropout_p, "return_weights": weights, "gradient": gradient(x, bias)}
    return Call(x.device, x.dtype, facts, count)
