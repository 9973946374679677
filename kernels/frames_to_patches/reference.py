"""Planar video to RGB in plain PyTorch: a plane X of a clip becomes W_y X W_x^T, with two small matrices.

Shapes: B clips, T frames, C bytes of a frame, S side of the picture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..runtime import without_autocast


def clips(planes: Tensor, sizes: Tensor, crop: Tensor, flip: Tensor, colour: Tensor, size: int) -> Tensor:
    """All pictures (B, T, S, S, 3) uint8."""
    out = planes.new_empty(*planes.shape[:2], size, size, 3)
    of_clips = zip(planes, sizes.tolist(), crop.tolist(), flip.tolist(), colour, strict=True)
    with without_autocast(planes.device):  # half types have too few digits for places, and for levels of 255
        for b, (planes_TC, (h, w), box, mirrored, colour_34) in enumerate(of_clips):
            _check(b, planes_TC.shape[1], h, w, box)
            out[b] = clip(planes_TC, h, w, box, mirrored, colour_34, size)
    return out


def _check(b: int, capacity: int, h: int, w: int, box: list[float]) -> None:
    if h < 1 or w < 1 or frame_bytes(h, w) > capacity:
        raise ValueError(f"sizes: clip {b} has frames of {h} x {w}, which are not of 1 to {capacity} bytes")
    top, left, height, width = box
    if not (0 <= top < top + height <= h and 0 <= left < left + width <= w):
        raise ValueError(f"crop: {box} of clip {b} does not lie within {h} x {w}")


def frame_bytes(h: int, w: int) -> int:
    """Of a frame in YUV 4:2:0."""
    return h * w + 2 * (-(-h // 2) * -(-w // 2))


def padded(patch: Sequence[int]) -> list[int]:
    """The sides of a patch rounded up to powers of 2, and to what a matrix product has at least."""
    return [max(1 << (side - 1).bit_length(), least) for side, least in zip(patch, (1, 16, 16), strict=True)]


def clip(
    planes_TC: Tensor, h: int, w: int, box: list[float], mirrored: bool, colour_34: Tensor, size: int
) -> Tensor:  # fmt: skip
    """The pictures (T, S, S, 3) uint8 of one clip."""
    dtype, device = colour_34.dtype, colour_34.device
    half_h, half_w = -(-h // 2), -(-w // 2)
    top, left, height, width = box
    luma, u, v = planes_TC[:, : frame_bytes(h, w)].split([h * w, half_h * half_w, half_h * half_w], dim=1)

    def scaled(plane: Tensor, rows: int, columns: int, step: int) -> Tensor:
        first_row, down = resampling(top / step, height / step, size)
        first_column, across = resampling(left / step, width / step, size)
        if mirrored:
            across = across.flip(0)
        # Only the crop, which is what the matrices have columns for.
        x = plane.view(-1, rows, columns).narrow(1, first_row, down.shape[1]).narrow(2, first_column, across.shape[1])
        return down.to(device, dtype) @ x.to(dtype) @ across.T.to(device, dtype)

    yuv = [scaled(luma, h, w, 1), scaled(u, half_h, half_w, 2), scaled(v, half_h, half_w, 2)]
    rgb = torch.stack(yuv, dim=-1) @ colour_34[:, :3].T + colour_34[:, 3]
    return rgb.clamp_(0, 255).round_().to(torch.uint8)


def resampling(begin: float, length: float, size: int) -> tuple[int, Tensor]:
    """The first sample of an axis that counts, and the matrix (size, samples), float64, that scales ``length`` samples
    from ``begin`` on to ``size``.

    Output i sits at begin + (i + 0.5) * length / size - 0.5 and takes the samples around it by a triangle, which is as
    wide as a step of the output on each side where that is larger than 1. Beyond the crop its border repeats.
    """
    ratio = length / size
    reach = max(1.0, ratio)
    places = begin + (torch.arange(size, dtype=torch.float64) + 0.5) * ratio - 0.5
    first, last = math.floor(begin), math.ceil(begin + length) - 1
    margin = math.ceil(reach) + 1
    near = torch.arange(first - margin, last + margin + 1)
    weights = (1 - (near - places[:, None]).abs() / reach).clamp(min=0)
    weights = weights / weights.sum(1, keepdim=True)
    matrix = torch.zeros(size, last - first + 1, dtype=torch.float64)
    return first, matrix.index_add_(1, near.clamp(first, last) - first, weights)
