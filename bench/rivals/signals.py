"""Video and sound as convolutions read them, and how many patches are dropped."""

from __future__ import annotations

import torch
from torch import Tensor


def channels_first(x: Tensor, dtype: torch.dtype) -> Tensor:
    """uint8 video (B, T, H, W, 3) -> (B, 3, T, H, W) in [-1, 1]; a waveform (B, L) -> (B, 1, L). Of type ``dtype``."""
    if x.ndim == 2:
        return x[:, None].to(dtype)
    return x.permute(0, 4, 1, 2, 3).to(dtype).sub_(127.5).div_(127.5)


def probability(kept: int, total: int) -> float:
    """The rate at which timm's PatchDropout keeps ``kept`` of ``total`` patches: it rounds total * (1 - rate) down, so
    half a patch more than wanted is safe from the rounding of the rate itself. Without a patch to drop: 0."""
    return 1 - (kept + 0.5) / total if kept < total else 0.0
