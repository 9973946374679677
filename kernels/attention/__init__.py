"""Multi-head attention with a key mask and an additive bias."""

from __future__ import annotations

from torch import Tensor

from ..backends import Call, choose, refuse_non_float, register
from . import reference, sdpa

__all__ = ["attention"]

register("attention", "sdpa", sdpa.attention, sdpa.refuse)
register("attention", "torch", reference.attention, refuse_non_float)


def attention(
    q_BNHE: Tensor,
    k_BNHE: Tensor,
    v_BNHE: Tensor,
    *,
    mask: Tensor | None = None,
    bias: Tensor | None = None,
    scale: float,
    dropout_p: float = 0.0,
    return_weights: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """softmax(q k^T * scale + bias + mask) v.

    Args:
        q_BNHE, k_BNHE, v_BNHE: (B, N, H, E), one floating-point type.
        mask: (B, N) over the keys, nonzero where a key may be seen; masked scores are lowered by 1e9 (or as far as
            the type goes), so a row in which all keys are masked is the softmax of the lowered scores.
        bias: (H, N, N), added to the scores of every item; differentiable.
        scale: factor of the scores, 1/sqrt(E) or, for T5, 1.
        dropout_p: dropout of the weights.
        return_weights: also return the weights (B, H, N, N) after dropout; the "torch" backend alone can.
        backend: "auto", "sdpa" (torch.nn.functional.scaled_dot_product_attention) or "torch".

    Returns:
        (B, N, H, E), or this and the weights.

    Raises:
        ValueError: shapes or types that do not fit; the message names the argument.
        BackendError: the backend cannot run this call.
    """
    if q_BNHE.ndim != 4:
        raise ValueError(f"q_BNHE: expected 4 dimensions, got {tuple(q_BNHE.shape)}")
    for name, value in (("k_BNHE", k_BNHE), ("v_BNHE", v_BNHE)):
        if value.shape != q_BNHE.shape or value.dtype != q_BNHE.dtype:
            raise ValueError(f"{name}: {tuple(value.shape)} {value.dtype} differs from q_BNHE {tuple(q_BNHE.shape)}")
    B, N, H, _ = q_BNHE.shape
    if mask is not None and mask.shape != (B, N):
        raise ValueError(f"mask: expected {(B, N)}, got {tuple(mask.shape)}")
    if bias is not None and bias.shape != (H, N, N):
        raise ValueError(f"bias: expected {(H, N, N)}, got {tuple(bias.shape)}")
    call = Call(q_BNHE.device, q_BNHE.dtype, {"return_weights": return_weights})
    out_BNHE, weights_BHNN = choose("attention", backend, call)(q_BNHE, k_BNHE, v_BNHE, mask, bias, scale, dropout_p)
    return (out_BNHE, weights_BHNN) if return_weights else out_BNHE
