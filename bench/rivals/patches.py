"""Patch embedding the usual way: a strided convolution embeds all patches, then most of the work is thrown away.

The convolution holds its weight as PyTorch's modules do: leaf "kernel" (D, 3, t, h, w) or (D, 1, t), which is ours
(D, t * h * w * 3) in another order (`native`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.problems import Bound, Leaves, Problem
from bench.rivals.packages import need
from bench.rivals.signals import channels_first, probability
from bench.shapes import PatchShape


def native(weight: Tensor, shape: PatchShape) -> Tensor:
    """Our weight (D, P) in the layout of a convolution."""
    if not shape.pixels:
        return weight[:, None, :]
    return weight.unflatten(1, (*shape.patch, 3)).movedim(-1, 1)


def conv_then_drop(problem: Problem, dropout: float) -> tuple[Bound, Leaves]:
    """All patches by Conv3d or Conv1d, positions, the kept ones by index, dropout, token. The same numbers as ours."""
    leaves, embed = _embedding(problem)
    kept = problem.fixed["kept"]

    def call() -> tuple[Tensor, ...]:
        tokens = (embed() + leaves["positions"])[:, kept]
        if dropout > 0:
            tokens = F.dropout(tokens, dropout)
        return (torch.cat([leaves["token"].expand(tokens.shape[0], 1, -1), tokens], dim=1),)

    return call, leaves


def timm_patches(problem: Problem, dropout: float) -> tuple[Bound, Leaves]:
    """As timm's VisionTransformer does it: convolution, positions, dropout, token, then timm's PatchDropout.

    It keeps as many patches as ours, but draws them itself, other ones for each item and call: not the same numbers.

    Raises:
        ImportError: no timm.
    """
    leaves, embed = _embedding(problem)
    total, kept = leaves["positions"].shape[0], problem.fixed["kept"].shape[-1]
    drop = need("timm.layers", "PatchDropout")(probability(kept, total), num_prefix_tokens=1).train()

    def call() -> tuple[Tensor, ...]:
        tokens = embed() + leaves["positions"]
        if dropout > 0:
            tokens = F.dropout(tokens, dropout)
        tokens = torch.cat([leaves["token"].expand(tokens.shape[0], 1, -1), tokens], dim=1)
        return (drop(tokens),)

    return call, leaves


def _embedding(problem: Problem) -> tuple[Leaves, Callable[[], Tensor]]:
    """Leaves, and a function that gives the embedded patches (B, N, D)."""
    shape = problem.shape
    assert isinstance(shape, PatchShape)
    given, x = problem.leaves, problem.fixed["x"]
    leaves = {"kernel": native(given["weight"].detach(), shape).contiguous().requires_grad_()}
    leaves |= {name: given[name] for name in ("bias", "positions", "token")}

    def embed() -> Tensor:
        conv = F.conv3d if shape.pixels else F.conv1d
        signal = channels_first(x, leaves["kernel"].dtype)
        return conv(signal, leaves["kernel"], leaves["bias"], stride=shape.patch).flatten(2).transpose(1, 2)

    return leaves, embed
