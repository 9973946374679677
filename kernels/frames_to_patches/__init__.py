"""Patches of RGB pictures from the planes that a decoder leaves: crop, scale, flip and colours in one pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..registry import Call, dispatch, register
from . import op

__all__ = ["clips_from_planes", "frames_to_patches"]

register("frames_to_patches", "triton", op.frames_to_patches, op.refuse)
register("frames_to_patches", "torch", op.plain_frames_to_patches, op.refuse_plain)


def frames_to_patches(
    planes: Tensor,
    sizes: Tensor,
    crop: Tensor,
    flip: Tensor,
    colour: Tensor,
    *,
    size: int,
    patch: tuple[int, int, int] = (4, 16, 16),
    kept: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """The (kept) patches of clips whose frames are still planar YUV 4:2:0, cropped, scaled, flipped and recoloured.

    Scaling is FFmpeg's bilinear one (libswscale): a triangle as wide as one sample of the larger grid on each side,
    which repeats the border of the crop; chroma is scaled to full resolution by its own ratio, centred between its luma
    samples in both directions. Nothing is rounded before the colours, so a result is within one level of
    ``scale=flags=bilinear,format=gbrp``. It has no gradient.

    Args:
        planes: (B, T, C) uint8. A frame is its luma plane h x w, then U and V, each ceil(h / 2) x ceil(w / 2), without
            padding; the rest of the C bytes is not read.
        sizes: (B, 2) int32 or int64, h and w of the frames of each clip.
        crop: (B, 4) floating point: top, left, height and width in luma pixels, within h x w.
        flip: (B,) uint8 or bool: mirrored from left to right.
        colour: (B, 3, 4) of the type of ``crop``. RGB in 0..255 is colour @ (Y, U, V, 1) of the bytes, clipped and
            rounded once: matrix and range of the source and all changes of colour in one.
        size: S, the side of the pictures.
        patch: as of `patch_embed`. What remains of T x S x S after whole patches is dropped.
        kept: None for all N patches, or int64 indices (K,) or (B, K), in the order of the output.
        backend: "auto", "triton" (one launch, which computes only kept patches) or "torch".

    Returns:
        uint8 (B, K, P), P = 3 * product of ``patch``: rows for `patch_embed` with ``gathered=True``.

    Raises:
        ValueError: shapes or types that do not fit, and on a CPU sizes and crops that do not; the message names the
            argument. A GPU does not look at them: it stays inside of ``planes``, but gives other pixels.
        BackendError: the backend cannot run this call.
    """
    return _run(planes, sizes, crop, flip, colour, size, patch, kept, backend, whole=False)


def clips_from_planes(
    planes: Tensor,
    sizes: Tensor,
    crop: Tensor,
    flip: Tensor,
    colour: Tensor,
    *,
    size: int,
    backend: str = "auto",
) -> Tensor:
    """Whole clips, uint8 (B, T, S, S, 3). Arguments and errors as of `frames_to_patches`."""
    patch = (min(4, planes.shape[1]), min(16, size), min(16, size)) if planes.ndim == 3 else (1, 1, 1)
    return _run(planes, sizes, crop, flip, colour, size, patch, None, backend, whole=True)


def _run(
    planes: Tensor,
    sizes: Tensor,
    crop: Tensor,
    flip: Tensor,
    colour: Tensor,
    size: int,
    patch: tuple[int, int, int],
    kept: Tensor | None,
    backend: str,
    whole: bool,
) -> Tensor:
    _check(planes, sizes, crop, flip, colour, size, patch, kept)
    facts: dict[str, Any] = {"patch": tuple(patch), "size": size, "frames": tuple(planes.shape[1:]), "whole": whole}
    facts["kept"] = None if kept is None else (kept.shape[-1], kept.ndim == 2)
    run = dispatch("frames_to_patches", backend, Call(planes.device, colour.dtype, facts, count=planes.shape[0]))
    return run(planes, sizes, crop, flip, colour, kept, size, patch, whole)


def _check(
    planes: Tensor,
    sizes: Tensor,
    crop: Tensor,
    flip: Tensor,
    colour: Tensor,
    size: int,
    patch: tuple[int, ...],
    kept: Tensor | None,
) -> None:
    if planes.ndim != 3 or planes.dtype != torch.uint8:
        raise ValueError(f"planes: expected uint8 (B, T, C), got {planes.dtype} {tuple(planes.shape)}")
    B, T, _ = planes.shape
    for name, x, shape in (("sizes", sizes, (B, 2)), ("crop", crop, (B, 4)), ("flip", flip, (B,))):
        if x.shape != shape:
            raise ValueError(f"{name}: expected {shape}, got {tuple(x.shape)}")
    if colour.shape != (B, 3, 4):
        raise ValueError(f"colour: expected {(B, 3, 4)}, got {tuple(colour.shape)}")
    if sizes.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"sizes: expected int32 or int64, got {sizes.dtype}")
    if flip.dtype not in (torch.uint8, torch.bool):
        raise ValueError(f"flip: expected uint8 or bool, got {flip.dtype}")
    if not crop.is_floating_point() or crop.dtype != colour.dtype:
        raise ValueError(f"crop: expected floating point as colour, got {crop.dtype} and {colour.dtype}")
    if len(patch) != 3 or min(patch) < 1:
        raise ValueError(f"patch: expected three sizes, got {patch}")
    if patch[0] > T or max(patch[1:]) > size:
        raise ValueError(f"size: {T} frames of {size} x {size} are smaller than one patch {tuple(patch)}")
    if kept is not None and (kept.ndim not in (1, 2) or (kept.ndim == 2 and kept.shape[0] != B)):
        raise ValueError(f"kept: expected (K,) or ({B}, K), got {tuple(kept.shape)}")
    if kept is not None and kept.dtype != torch.int64:
        raise ValueError(f"kept: expected int64, got {kept.dtype}")
