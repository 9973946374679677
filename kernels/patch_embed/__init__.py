"""Patches of a video, a waveform or a spectrogram, projected to tokens; dropped patches cost nothing."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..dropout import check_dropout
from ..registry import Call, dispatch, gradient, refuse_non_float, register
from ..types import autocast_type, check_types
from . import gather, op, reference
from .reference import add_positions

__all__ = ["add_positions", "patch_embed"]

register("patch_embed", "triton", op.patch_embed, op.refuse)
register("patch_embed", "gather", gather.patch_embed, op.refuse)
register("patch_embed", "torch", reference.patch_embed, refuse_non_float)


def patch_embed(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    patch: tuple[int, ...],
    *,
    kept: Tensor | None = None,
    positions: Tensor | None = None,
    token: Tensor | None = None,
    dropout_p: float = 0.0,
    seed: Tensor | None = None,
    gathered: bool = False,
    backend: str = "auto",
) -> Tensor:
    """Projects the (kept) patches of ``x``; optionally adds positions, drops out, and puts a token in front.

    Args:
        x: (B, *S) or (B, *S, C), one size in S for each size of ``patch``: video (B,T,H,W,3), waveform (B,L),
            spectrogram (B,T,F). Floating point, or uint8, which is normalised from [0, 255] to [-1, 1] after the
            patches were chosen. What remains of S after whole patches is dropped. Or, ``gathered``: (B, K, P).
        weight: (D, P), P = product of ``patch`` times C; a patch is flattened in the order of the axes of ``x``.
        bias: (D,) or None.
        patch: patch size along each axis of S.
        kept: None for all N patches in row-major order, or int64 indices of the kept ones, in the order of the
            output: (K,) shared by the batch, or (B, K). They must lie in [0, N), which a GPU does not check.
        positions: (N, D) rows, added at the kept indices.
        token: (D,), prepended as row 0, without position and dropout.
        dropout_p: dropout of the tokens after the positions were added.
        seed: (1,) or longer, int64, of which the first number counts. The mask of the dropout is a function of it, the
            same in all backends. None draws one from PyTorch's generator.
        gathered: ``x`` holds just the kept patches as rows, in their order, as `frames_to_patches` gives them. ``kept``
            then only chooses their positions; with positions and without ``kept`` they are all N.
        backend: "auto", "triton" (one implicit matrix product, which reads kept patches where they lie), "gather" (kept
            patches become rows of a matrix, which cuBLAS multiplies) or "torch".

    Returns:
        (B, K, D), or (B, 1 + K, D) with ``token``, of the type of ``weight``; under autocast of its type.

    Raises:
        ValueError: shapes or types that do not fit; the message names the argument.
        BackendError: the backend cannot run this call.
    """
    if gathered:
        N = _check_gathered(x, weight, patch, kept, positions)
    else:
        N = _check_signal(x, weight, patch)
    _check(x, weight, bias, kept)
    _check_rows(N, weight, positions, token)
    check_dropout("patch_embed", dropout_p, seed, x.device)
    lower = autocast_type(weight.device)
    if lower is not None and weight.dtype != torch.float64:
        weight = weight.to(lower)
        bias, positions, token = (None if v is None else v.to(lower) for v in (bias, positions, token))
    check_types("patch_embed", weight.dtype, {"bias": bias})
    facts: dict[str, Any] = {"patch": tuple(patch), "input": x.dtype, "sizes": tuple(x.shape[1:])}
    facts |= {"gathered": gathered, "patches": N}
    facts |= {"width": weight.shape[0], "kept": None if kept is None else (kept.shape[-1], kept.ndim == 2)}
    facts |= {"bias": bias is not None, "positions": positions is not None, "token": token is not None}
    facts |= {"dropout": dropout_p, "gradient": gradient(weight)}
    facts["input_gradient"] = torch.is_grad_enabled() and x.requires_grad  # x is what the model is given
    run = dispatch("patch_embed", backend, Call(weight.device, weight.dtype, facts, count=x.shape[0]))
    return run(x, weight, bias, patch, kept, positions, token, dropout_p, seed, gathered)


def _check_signal(x: Tensor, weight: Tensor, patch: tuple[int, ...]) -> int:
    """N."""
    axes = len(patch)
    if x.ndim not in (1 + axes, 2 + axes):
        raise ValueError(f"x: expected {1 + axes} or {2 + axes} dimensions for patches {patch}, got {tuple(x.shape)}")
    if any(size < side for size, side in zip(x.shape[1:], patch, strict=False)):
        raise ValueError(f"x: {tuple(x.shape)} is smaller than one patch {patch}")
    length = math.prod(patch) * (x.shape[-1] if x.ndim == 2 + axes else 1)
    if weight.ndim != 2 or weight.shape[1] != length:
        raise ValueError(f"weight: expected (D, {length}) for patches {patch}, got {tuple(weight.shape)}")
    return math.prod([size // side for size, side in zip(x.shape[1:], patch, strict=False)])


def _check_gathered(
    x: Tensor, weight: Tensor, patch: tuple[int, ...], kept: Tensor | None, positions: Tensor | None
) -> int:
    """N, as far as it is known."""
    if x.ndim != 3 or x.shape[2] % math.prod(patch):
        raise ValueError(f"x: expected (B, K, P) for gathered patches {patch}, got {tuple(x.shape)}")
    if weight.ndim != 2 or weight.shape[1] != x.shape[2]:
        raise ValueError(f"weight: expected (D, {x.shape[2]}) for gathered patches, got {tuple(weight.shape)}")
    if kept is not None and kept.shape[-1:] != x.shape[1:2]:
        raise ValueError(f"kept: expected indices of {x.shape[1]} gathered patches, got {tuple(kept.shape)}")
    return x.shape[1] if positions is None or kept is None else positions.shape[0]


def _check(x: Tensor, weight: Tensor, bias: Tensor | None, kept: Tensor | None) -> None:
    if x.dtype != torch.uint8 and not x.is_floating_point():
        raise ValueError(f"x: expected uint8 or floating point, got {x.dtype}")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias: expected ({weight.shape[0]},), got {tuple(bias.shape)}")
    if kept is not None and (kept.ndim not in (1, 2) or (kept.ndim == 2 and kept.shape[0] != x.shape[0])):
        raise ValueError(f"kept: expected (K,) or ({x.shape[0]}, K), got {tuple(kept.shape)}")
    if kept is not None and kept.dtype != torch.int64:
        raise ValueError(f"kept: expected int64, got {kept.dtype}")


def _check_rows(N: int, weight: Tensor, positions: Tensor | None, token: Tensor | None) -> None:
    D = weight.shape[0]
    if positions is not None and positions.shape != (N, D):
        raise ValueError(f"positions: {tuple(positions.shape)} does not fit {N} patches of width {D}")
    if token is not None and token.shape != (D,):
        raise ValueError(f"token: expected ({D},), got {tuple(token.shape)}")
