"""Patch embedding in plain PyTorch.

Shapes: B batch, G* grid of whole patches, K kept patches, P numbers in a patch, N all patches, D width.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..dropout import check_dropout, dropout


def patch_embed(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    patch: tuple[int, ...],
    kept: Tensor | None,
    positions: Tensor | None,
    token: Tensor | None,
    dropout_p: float,
    seed: Tensor | None = None,
    gathered: bool = False,
) -> Tensor:
    """Projection and positions of the kept patches, and the token in front."""
    patches_BKP = x if gathered else gather_patches(x, patch, kept)
    tokens_BKD = project(patches_BKP, weight, bias)
    return add_positions(tokens_BKD, positions=positions, kept=kept, token=token, dropout_p=dropout_p, seed=seed)


def project(patches_BKP: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Tokens (B, K, D) of kept patches. Only they are converted and multiplied."""
    if patches_BKP.dtype == torch.uint8:
        patches_BKP = normalise_uint8(patches_BKP, weight.dtype)
    return F.linear(patches_BKP.to(weight.dtype), weight, bias)


def normalise_uint8(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x / 127.5 - 1. Subtracting first is exact in every type (a half-integer below 128), so one rounding is left."""
    return x.to(dtype).sub_(127.5).div_(127.5)


def gather_patches(x: Tensor, patch: tuple[int, ...], kept: Tensor | None) -> Tensor:
    """The kept patches of ``x`` as rows (B, K, P), in the type of ``x``: one copy, of just these patches."""
    axes = len(patch)
    grid = tuple(size // side for size, side in zip(x.shape[1 : 1 + axes], patch, strict=True))
    blocks = _blocks(x, patch, grid)
    volume = math.prod(blocks.shape[1 + axes :])
    if kept is None:
        return blocks.reshape(x.shape[0], math.prod(grid), volume)
    items: slice | Tensor = slice(None)
    if kept.ndim == 2:
        items = torch.arange(x.shape[0], device=x.device)[:, None]
    chosen = blocks[(items, *_unravelled(kept, grid))]
    return chosen.reshape(x.shape[0], kept.shape[-1], volume)


def _unravelled(kept: Tensor, grid: tuple[int, ...]) -> list[Tensor]:
    """The place of each patch along each axis. torch.unravel_index copies the sizes to the device, and waits for it.
    Along the first axis without a remainder, so that a patch beyond the last one is an error and not another patch."""
    places: list[Tensor] = []
    for size in reversed(grid[1:]):
        places.insert(0, kept % size)
        kept = kept // size
    return [kept, *places]


def _blocks(x: Tensor, patch: tuple[int, ...], grid: tuple[int, ...]) -> Tensor:
    """A view (B, *grid, *patch[, C]) of ``x``, without what remains after whole patches."""
    axes = len(patch)
    for axis, (count, side) in enumerate(zip(grid, patch, strict=True), start=1):
        x = x.narrow(axis, 0, count * side)
    for axis in reversed(range(axes)):
        x = x.unflatten(1 + axis, (grid[axis], patch[axis]))
    of_grid = [1 + 2 * axis for axis in range(axes)]
    of_patch = [2 + 2 * axis for axis in range(axes)]
    channels = list(range(1 + 2 * axes, x.ndim))
    return x.permute(0, *of_grid, *of_patch, *channels)


def add_positions(
    x_BKD: Tensor,
    *,
    positions: Tensor | None,
    kept: Tensor | None = None,
    token: Tensor | None = None,
    dropout_p: float = 0.0,
    seed: Tensor | None = None,
) -> Tensor:
    """Adds position rows (N, D) at the kept indices, then drops out, then prepends ``token`` (D,) as row 0.

    The token has no position (the paper's equation 2 gives it one; the official code does not).
    """
    check_dropout("add_positions", dropout_p, seed, x_BKD.device)
    if positions is not None:
        rows = positions if kept is None else positions[kept]
        if rows.shape[-2:] != x_BKD.shape[-2:]:
            raise ValueError(f"positions: {tuple(rows.shape)} does not fit the tokens {tuple(x_BKD.shape)}")
        x_BKD = x_BKD + rows.to(x_BKD.dtype)
    if token is None:
        return dropout(x_BKD, dropout_p, seed)
    first_B1D = token.to(x_BKD.dtype).expand(x_BKD.shape[0], 1, -1)
    if seed is None:
        return torch.cat([first_B1D, dropout(x_BKD, dropout_p)], dim=1)
    # The mask counts the row of the token, too, as the kernels do; the token itself is not dropped.
    x_BND = dropout(torch.cat([first_B1D, x_BKD], dim=1), dropout_p, seed)
    return torch.cat([first_B1D, x_BND[:, 1:]], dim=1)
