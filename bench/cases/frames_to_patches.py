"""Patches of RGB from the planes of a decoder; beside it: whole clips by the same kernel, of which patches are chosen.

It has no gradient, and is computed in float32 whatever the type of a model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bench.cases import base
from bench.cases.base import ARCH, Baseline, Call, Cost, Draw, Expect, Leaves, Problem, SearchSpace, meta
from vatt.kernels import clips_from_planes, frames_to_patches
from vatt.kernels.patch_embed.reference import gather_patches

OP = "frames_to_patches"
CLIPS = "whole clips, then patches"


@dataclass(frozen=True, kw_only=True)
class Frames(base.Case):
    """``clips`` of ``frames`` of ``sides`` in YUV 4:2:0, in ``capacity`` bytes each; crops as the paper draws them."""

    op = OP
    has_dropout = False
    has_gradient = False
    dtype: torch.dtype = torch.float32
    clips: int
    frames: int
    sides: tuple[int, int]
    capacity: int
    side: int
    patch: tuple[int, int, int]
    kept: int

    def inputs(self, draw: Draw) -> dict[str, Tensor]:
        B, sides = self.clips, torch.tensor(self.sides, device=draw.device)
        uniform = torch.rand(4, B, generator=draw.generator, device=draw.device)
        # Area from 0.08 to 1 of the picture, width over height from 0.5 to 2.
        area, aspect = (0.08 + 0.92 * uniform[0]) * sides.prod(), 4 ** (uniform[1] - 0.5)
        extent = torch.stack([(area / aspect).sqrt(), (area * aspect).sqrt()], 1).minimum(sides).floor()
        start = (uniform[2:].T * (sides - extent)).floor()
        N = math.prod(n // side for n, side in zip((self.frames, self.side, self.side), self.patch, strict=True))
        colour = torch.tensor([[1.16, 0.0, 1.6, -223.0], [1.16, -0.39, -0.81, 136.0], [1.16, 2.02, 0.0, -277.0]])
        return {
            "x": draw.integers(0, 256, B, self.frames, self.capacity, dtype=torch.uint8),
            "sizes": sides.int().expand(B, 2).contiguous(),
            "crop": torch.cat([start, extent], 1),
            "flip": draw.integers(0, 2, B, dtype=torch.uint8),
            "colour": colour.to(draw.device).expand(B, 3, 4).contiguous(),
            "kept": torch.randperm(N, generator=draw.generator, device=draw.device)[: self.kept],
        }

    def bind(self, inputs: dict[str, Tensor], backend: str, dropout: float) -> Call:
        planes, *rest = (inputs[name] for name in ("x", "sizes", "crop", "flip", "colour"))
        options: dict[str, Any] = dict(size=self.side, patch=self.patch, kept=inputs["kept"], backend=backend)
        return lambda: (frames_to_patches(planes, *rest, **options),)

    def passes(self, dropout: float) -> tuple[Cost, Cost]:
        """Of a crop of mean area what lies below kept patches is read. There is no backward pass."""
        pixels = self.clips * self.kept * math.prod(self.patch)
        zoom = 0.54 * math.prod(self.sides) / self.side**2
        return Cost(0, pixels * (1.5 * zoom + 3)), Cost(0, 0)

    def baselines(self) -> dict[str, Baseline]:
        return super().baselines() | {CLIPS: Baseline(self._whole_clips)}

    def _whole_clips(self, problem: Problem, dropout: float) -> tuple[Call, Leaves]:
        planes, *rest = (problem.fixed[name] for name in ("x", "sizes", "crop", "flip", "colour"))

        def call() -> tuple[Tensor, ...]:
            return (
                gather_patches(clips_from_planes(planes, *rest, size=self.side), self.patch, problem.fixed["kept"]),
            )

        return call, {}


_SHARDS: dict[str, Any] = dict(frames=32, sides=(256, 456), capacity=180608, side=224, patch=(4, 16, 16), kept=784)
_TINY: dict[str, Any] = dict(frames=4, sides=(19, 26), capacity=768, side=16, patch=(2, 8, 8), kept=5)
CASES = (
    Frames(name="shards", clips=64, **_SHARDS),
    Frames(name="shards", size="cpu", clips=1, **_SHARDS),
    Frames(name="shards", size="tiny", priority=1, clips=2, **_TINY),
)
SEARCH_SPACES = (SearchSpace(OP, "forward", "WARPS", ARCH, ((1, 2, 4, 8),), ("shards",), backward=False),)


def _launch(case: Frames, whole: bool, per_item: bool) -> None:
    """``whole``: whole clips. ``per_item``: each clip keeps other patches."""
    from vatt.kernels.frames_to_patches import triton_launch

    B, K = case.clips, case.kept
    planes, sizes = meta(B, case.frames, case.capacity, dtype=torch.uint8), meta(B, 2, dtype=torch.int32)
    crop, colour = meta(B, 4, dtype=torch.float32), meta(B, 3, 4, dtype=torch.float32)
    kept = None if whole else meta(*((B, K) if per_item else (K,)), dtype=torch.int64)
    flip = meta(B, dtype=torch.uint8)
    triton_launch.forward(planes, sizes, crop, flip, colour, kept, case.side, list(case.patch), whole)


# Bytes, from anywhere. The second of the two products has too few rows for the instructions of a warp group.
_MATRIX = {"sm_80": ("mma",), "sm_90": ("wgmma", "mma"), "sm_100": ("tcgen05", "mma")}
_EXPECT = {"frames_to_patches_forward": Expect(_MATRIX, wide=0.0)}
COMPILATIONS = tuple(
    base.Compilation(OP, name, partial(_launch, CASES[0], name == "clips", name == "shards_per_item"), _EXPECT)
    for name in ("shards", "shards_per_item", "clips")
)
