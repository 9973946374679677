"""The patches of planar video as operators of PyTorch: what the backends "triton" and "torch" call.

The plain one is an operator, too: what it computes depends on sizes in memory, which nothing can trace. Imports without
Triton; shapes as in `reference.py`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..operators import Operator, operator
from ..patch_embed.reference import gather_patches
from ..registry import Call, refuse_non_float
from ..runtime import refuse_triton
from . import reference

MOST_PIXELS = 4096  # of a patch, which one program holds
_SCHEMA = (
    "(Tensor planes, Tensor sizes, Tensor crop, Tensor flip, Tensor colour, Tensor? kept, int size, int[] patch,"
    " bool whole) -> Tensor"
)


def refuse(call: Call) -> list[str]:
    """The reasons why the Triton kernel cannot run ``call``."""
    reasons = refuse_triton(call)
    # Without facts the type is that of a model, of which places and colours are not.
    if call.facts and call.dtype in (torch.bfloat16, torch.float16):
        reasons.append(f"takes places and colours in float32, got {call.dtype}")
    patch, (_, capacity) = call.facts.get("patch", (1, 1, 1)), call.facts.get("frames", (1, 1))
    if (pixels := math.prod(reference.padded(patch))) > MOST_PIXELS:
        reasons.append(f"has patches of up to {MOST_PIXELS} pixels, sides rounded up to powers of 2, got {pixels}")
    if patch[0] * capacity >= 1 << 31:
        reasons.append(f"has patches of frames that begin within 2^31 bytes, got {patch[0]} of {capacity}")
    return reasons


def refuse_plain(call: Call) -> list[str]:
    """The reasons why the reference cannot run ``call``."""
    return refuse_non_float(call)


def _fake(planes, sizes, crop, flip, colour, kept, size, patch, whole):
    if whole:
        return planes.new_empty(*planes.shape[:2], size, size, 3)
    grid = planes.shape[1] // patch[0], size // patch[1], size // patch[2]
    K = math.prod(grid) if kept is None else kept.shape[-1]
    return planes.new_empty(planes.shape[0], K, 3 * math.prod(patch))


@operator("vatt_kernels::frames_to_patches", _SCHEMA, _fake)
def patches(planes, sizes, crop, flip, colour, kept, size, patch, whole):
    """Kept patches (B, K, P), or the ``whole`` clips (B, T, S, S, 3)."""
    from . import triton_launch

    return triton_launch.forward(planes, sizes, crop, flip, colour, kept, size, patch, whole)


@operator("vatt_kernels::frames_to_patches_plain", _SCHEMA, _fake)
def plain_patches(planes, sizes, crop, flip, colour, kept, size, patch, whole):
    """The same of whole clips, by the reference."""
    if planes.device.type == "meta":  # sizes have no numbers there
        return _fake(planes, sizes, crop, flip, colour, kept, size, patch, whole)
    clips_BTSS3 = reference.clips(planes, sizes, crop, flip, colour, size)
    return clips_BTSS3 if whole else gather_patches(clips_BTSS3, tuple(patch), kept)


def frames_to_patches(*arguments: Any) -> Tensor:
    """Kept patches, or the ``whole`` clips, in one launch; only what is asked for is computed."""
    return _call(patches, *arguments)


def plain_frames_to_patches(*arguments: Any) -> Tensor:
    """The same by the reference."""
    return _call(plain_patches, *arguments)


def _call(
    run: Operator,
    planes: Tensor,
    sizes: Tensor,
    crop: Tensor,
    flip: Tensor,
    colour: Tensor,
    kept: Tensor | None,
    size: int,
    patch: tuple[int, ...],
    whole: bool = False,
) -> Tensor:
    planes, sizes, crop, colour = (x.detach().contiguous() for x in (planes, sizes, crop, colour))
    flip, kept = flip.to(torch.uint8).contiguous(), None if kept is None else kept.contiguous()
    return run(planes, sizes, crop, flip, colour, kept, size, list(patch), whole)
