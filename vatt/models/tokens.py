"""From a raw signal to the tokens that the encoder reads; DropToken keeps a random part of them in training.

Shapes: B batch, T/H/W time/height/width, L samples, F mel bins, K kept patches, D width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vatt.kernels.patch_embed import add_positions, patch_embed
from vatt.models.config import DropTokenConfig
from vatt.models.layers import Dense, glorot_normal_vector, glorot_uniform, parameter
from vatt.models.positions import Positions


@dataclass
class ItemDraws:
    """Random numbers of the items of a batch by their place in it, so that it does not matter which process and which
    part of a step draws them: place ``first`` and those after it, in the step of ``seed``. A counter-based generator
    (Philox, Salmon et al. 2011) begins at any place."""

    seed: int
    first: int = 0
    _drawn: int = 0

    def uniform(self, items: int, numbers: int) -> Tensor:
        """(items, numbers), float64 in [0, 1); each call draws others."""
        groups = -(-numbers // 4)  # Philox gives four numbers at a time
        source = np.random.Philox(key=np.array([self.seed % 2**64, self._drawn], np.uint64)).advance(
            self.first * groups
        )
        self._drawn += 1
        drawn = np.random.Generator(source).random((items, 4 * groups))
        return torch.from_numpy(drawn[:, :numbers])


class DropToken:
    """Draws which patches a training step keeps (paper, section 3.3).

    It keeps int(patch_sampling_rate * number of configured position buckets) patches, whatever the size of the input,
    as the official code does; the paper samples a portion of the tokens. By default one permutation serves the whole
    batch, also as in the official code; ``sample_per_item`` draws one for each item. The official code refuses a rate
    of 1; here it means that nothing is dropped.
    """

    def __init__(self, config: DropTokenConfig, buckets: int, section: str) -> None:
        """``section`` is the part of the configuration that errors name, such as "video".

        Raises:
            ValueError: the rate leaves no patch.
        """
        rate = config.patch_sampling_rate
        self.enabled = config.random_patch_sampling and rate < 1
        self.kept = int(rate * buckets)
        if self.enabled and self.kept == 0:
            raise ValueError(f"{section}.patch_sampling_rate: {rate} of {buckets} buckets keeps no patch")
        self.per_item = config.sample_per_item
        self.section = section

    def draw(
        self,
        batch: int,
        tokens: int,
        generator: torch.Generator | None = None,
        items: ItemDraws | None = None,
    ) -> Tensor | None:
        """Indices of the kept patches: (kept,), or (batch, kept) per item; int64 on the CPU. None: all are kept.

        Args:
            batch: number of items.
            tokens: number of patches of one item.
            generator: a CPU generator; None is PyTorch's default one.
            items: what ``sample_per_item`` draws from, if not from ``generator``.

        Raises:
            ValueError: there are fewer patches than are to be kept.
        """
        if not self.enabled:
            return None
        if tokens < self.kept:
            raise ValueError(
                f"{self.section}: DropToken keeps {self.kept} patches (patch_sampling_rate of the configured buckets), "
                f"but the input has {tokens}; lower {self.section}.patch_sampling_rate or the max_*_buckets"
            )
        if self.per_item:
            drawn = items.uniform(batch, tokens) if items else torch.rand(batch, tokens, generator=generator)
            return drawn.argsort(dim=1)[:, : self.kept]
        return torch.randperm(tokens, generator=generator)[: self.kept]


def send(indices: Tensor, device: torch.device) -> Tensor:
    """Indices drawn on the host, on ``device``; from pinned memory, so that the host does not wait for a GPU."""
    if device.type == "cuda" and indices.device.type == "cpu":
        indices = indices.pin_memory()
    return indices.to(device, non_blocking=True)


class PatchTokens(nn.Module):
    """Patch projection, optional GELU projection, positions, dropout, aggregation token.

    DropToken chooses before anything is projected. The official code projects all patches, adds positions and then
    chooses; the result is the same. The projection has a bias (the paper's has none).

    Attributes:
        patch_grid: patches along each axis of the clips that gathered patches are of; None: as many as the tables of
            positions have rows.
    """

    patch_grid: tuple[int, ...] | None = None

    def __init__(
        self,
        patch: tuple[int, ...],
        channels: int,
        positions: Positions,
        *,
        d_model: int,
        position_dropout: float,
        pre_projection: bool = False,
        drop_token: DropToken | None = None,
        name: str = "input",
        backend: str = "auto",
    ) -> None:
        """``channels`` is 0 for a signal without a channel axis; ``name`` is what errors call the input."""
        super().__init__()
        self.patch, self.channels, self.name, self.backend = patch, channels, name, backend
        volume = math.prod(patch)
        size = volume * max(channels, 1)
        self.weight = nn.Parameter(glorot_uniform(torch.empty(d_model, size), size, volume * d_model))
        self.bias = parameter(d_model)
        self.agg_token = nn.Parameter(glorot_normal_vector(torch.empty(d_model)))
        self.pre_projection = Dense(d_model, d_model, gelu=True, backend=backend) if pre_projection else None
        self.positions = positions
        self.position_dropout = position_dropout
        self.drop_token = drop_token

    def grid(self, x: Tensor) -> tuple[int, ...]:
        """Number of whole patches along each axis of ``x``, or of the clips that its patches are of.

        Raises:
            ValueError: wrong number of axes or of channels, or smaller than a patch; the message names the input.
        """
        if self.gathered(x):
            if x.shape[-1] != self.weight.shape[1]:
                raise ValueError(f"{self.name}: expected patches (B, K, {self.weight.shape[1]}), got {tuple(x.shape)}")
            return self.patch_grid or self.positions.buckets
        axes = len(self.patch)
        wanted = 1 + axes + (self.channels > 0)
        if x.ndim != wanted or (self.channels and x.shape[-1] != self.channels):
            last = f" with {self.channels} channels last" if self.channels else ""
            raise ValueError(f"{self.name}: expected {wanted} dimensions{last}, got {tuple(x.shape)}")
        grid = tuple(size // side for size, side in zip(x.shape[1:], self.patch, strict=False))
        if 0 in grid:
            raise ValueError(f"{self.name}: {tuple(x.shape)} is smaller than one patch {self.patch}")
        if x.dtype != torch.uint8 and not x.is_floating_point():
            raise ValueError(f"{self.name}: expected uint8 or floating point, got {x.dtype}")
        return grid

    def gathered(self, x: Tensor) -> bool:
        """Whether ``x`` is patches of a video, which somebody else has chosen (`vatt.kernels.frames_to_patches`)."""
        return len(self.patch) == 3 and x.ndim == 3

    def draw(
        self, x: Tensor, generator: torch.Generator | None = None, items: ItemDraws | None = None
    ) -> Tensor | None:
        """The patches of ``x`` that a training step keeps, see `DropToken.draw`; None where all are kept."""
        if not self.training or self.drop_token is None or not self.drop_token.enabled:
            return None
        if self.gathered(x):
            raise ValueError(
                f"{self.name}: of patches (B, K, P) kept must be given; draw it for the shape of the clips"
            )
        return self.drop_token.draw(x.shape[0], math.prod(self.grid(x)), generator, items)

    def forward(self, x: Tensor, generator: torch.Generator | None = None, kept: Tensor | None = None) -> Tensor:
        """Tokens (B, 1 + K, D), the aggregation token first.

        Args:
            x: (B, T, H, W, 3), (B, L) or (B, T, F); uint8 or floating point. Or patches of a video (B, K, P), see
                `patch_grid`.
            generator: of DropToken, which is active in training mode.
            kept: int64 (K,) or (B, K), the patches to keep, instead of drawing them; of patches those that ``x`` has.

        Raises:
            ValueError: an input that does not fit, or some patches without ``kept``; the message names the input.
        """
        grid, gathered = self.grid(x), self.gathered(x)
        kept = self.draw(x, generator) if kept is None else kept
        if kept is not None:
            kept = send(kept, x.device)
        dropout_p = self.position_dropout if self.training else 0.0
        if gathered and kept is None and x.shape[1] != math.prod(grid):
            raise ValueError(f"{self.name}: {x.shape[1]} of {math.prod(grid)} patches (B, K, P): kept must say which")
        rows = {"positions": self.positions(grid), "token": self.agg_token, "dropout_p": dropout_p}
        signal: dict[str, Any] = {"kept": kept, "gathered": gathered, "backend": self.backend}
        if self.pre_projection is None:
            return patch_embed(x, self.weight, self.bias, self.patch, **signal, **rows)
        projected = patch_embed(x, self.weight, self.bias, self.patch, **signal)
        return add_positions(self.pre_projection(projected), kept=kept, **rows)
