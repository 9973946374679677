"""Patch embedding: kept patches of a video or a waveform become tokens.

Beside it: gather the kept patches and leave the rest to cuBLAS; and the usual way, a strided convolution that embeds
all patches, after which most of the work is thrown away. The convolution holds its weight as PyTorch's modules do: leaf
"kernel" (D, 3, t, h, w) or (D, 1, t), which is ours (D, t * h * w * 3) in another order (`native`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.baselines.packages import need
from bench.cases import base
from bench.cases.base import ARCH, Baseline, Call, Case, Cost, Draw, Expect, Leaves, Problem, SearchSpace, Target, meta
from vatt.kernels import patch_embed
from vatt.kernels.patch_embed.reference import normalise_uint8

OP = "patch_embed"
GATHER, CONV, TIMM = "gather + cuBLAS", "conv, then drop", "timm"


@dataclass(frozen=True, kw_only=True)
class PatchEmbed(Case):
    """``signal`` is (B, T, H, W, 3) in uint8 or (B, L) in floating point; ``kept`` of its patches become tokens."""

    op = OP
    signal: tuple[int, ...]
    patch: tuple[int, ...]
    kept: int
    width: int

    @property
    def pixels(self) -> bool:
        return len(self.signal) == 5

    @property
    def sizes(self) -> tuple[int, int]:
        """N patches of P numbers."""
        N = math.prod(size // side for size, side in zip(self.signal[1:], self.patch, strict=False))
        return N, math.prod(self.patch) * (3 if self.pixels else 1)

    def inputs(self, draw: Draw) -> base.Inputs:
        (N, P), D = self.sizes, self.width
        if self.pixels:
            x = draw.integers(0, 256, *self.signal, dtype=torch.uint8)
        else:  # a waveform arrives in float32; rounded here, so that all backends see the same numbers
            x = draw.raw(*self.signal, std=0.3).to(draw.dtype).float()
        kept = torch.randperm(N, generator=draw.generator, device=draw.device)[: self.kept]
        leaves = {
            "weight": draw.leaf(D, P, std=P**-0.5),
            "bias": draw.leaf(D, std=0.1),
            "positions": draw.leaf(N, D, std=0.1),
            "token": draw.leaf(D, std=0.1),
        }
        return leaves, {"x": x, "kept": kept}

    def bind(self, leaves: Leaves, fixed: dict[str, Any], backend: str, dropout: float) -> Call:
        rest: dict[str, Any] = {name: leaves[name] for name in ("positions", "token")}
        rest |= dict(kept=fixed["kept"], dropout_p=dropout, backend=backend)
        return lambda: (patch_embed(fixed["x"], leaves["weight"], leaves["bias"], self.patch, **rest),)

    def passes(self, dropout: float) -> tuple[Cost, Cost]:
        """Only kept patches are read, and the backward pass has no gradient of the input."""
        (N, P), B, K, D, s = self.sizes, self.signal[0], self.kept, self.width, self.dtype.itemsize
        flops = 2 * B * K * P * D
        signal = B * K * P * (1 if self.pixels else 4)  # a waveform stays float32, whatever the model's type
        tokens, weight, index = B * (1 + K) * D * s, D * P * s, 8 * K
        forward = Cost(flops, signal + index + weight + (K + 2) * D * s + tokens)
        return forward, Cost(flops, signal + index + tokens + weight + (N + 2) * D * s)

    def baselines(self) -> dict[str, Baseline]:
        found = super().baselines() | {GATHER: Baseline(_gather), CONV: Baseline(_conv_then_drop)}
        found[TIMM] = Baseline(_timm, same=False)  # it chooses its own patches
        return found | {f"{base.COMPILE} of gather": base.compiled(_gather)}


def _with_token(tokens: Tensor, token: Tensor) -> Tensor:
    return torch.cat([token.expand(tokens.shape[0], 1, -1), tokens], dim=1)


def _gather_patches(x: Tensor, patch: tuple[int, ...], kept: Tensor) -> Tensor:
    """Kept patches (B, K, P) of a video or a waveform, in one copy. As the reference, but traceable."""
    if x.ndim == 2:
        return x[:, : x.shape[1] // patch[0] * patch[0]].unflatten(1, (-1, *patch))[:, kept]
    T, H, W = (size // side for size, side in zip(x.shape[1:], patch, strict=False))
    blocks = x.view(x.shape[0], T, patch[0], H, patch[1], W, patch[2], 3).permute(0, 1, 3, 5, 2, 4, 6, 7)
    return blocks[:, kept // (H * W), kept // W % H, kept % W].flatten(2)


def _gather(problem: Problem, dropout: float) -> tuple[Call, Leaves]:
    """Gathers the kept patches, normalises them in bfloat16, and leaves the rest to cuBLAS: the plain way to skip what
    DropToken drops. Written for speed: positions and bias are added to the product in one pass, in place of two."""
    case, leaves, x, kept = problem.case, problem.leaves, problem.fixed["x"], problem.fixed["kept"]
    assert isinstance(case, PatchEmbed)
    patch, pixels = case.patch, case.pixels

    def call() -> tuple[Tensor, ...]:
        patches, weight = _gather_patches(x, patch, kept), leaves["weight"]
        patches = normalise_uint8(patches, weight.dtype) if pixels else patches.to(weight.dtype)
        tokens = F.linear(patches, weight) + (leaves["positions"][kept] + leaves["bias"])
        return (_with_token(F.dropout(tokens, dropout), leaves["token"]),)

    return call, leaves


def native(weight: Tensor, case: PatchEmbed) -> Tensor:
    """Our weight (D, P) in the layout of a convolution."""
    if not case.pixels:
        return weight[:, None, :]
    return weight.unflatten(1, (*case.patch, 3)).movedim(-1, 1)


def _convolved(problem: Problem) -> tuple[Leaves, Callable[[], Tensor]]:
    """Leaves, and a function that gives all embedded patches with their positions, (B, N, D)."""
    case, given, x = problem.case, problem.leaves, problem.fixed["x"]
    assert isinstance(case, PatchEmbed)
    leaves = {"kernel": native(given["weight"].detach(), case).contiguous().requires_grad_()}
    leaves |= {name: given[name] for name in ("bias", "positions", "token")}
    conv, patch = F.conv3d if case.pixels else F.conv1d, case.patch

    def embed() -> Tensor:
        signal = channels_first(x, leaves["kernel"].dtype)
        tokens = conv(signal, leaves["kernel"], leaves["bias"], stride=patch)  # type: ignore[operator]
        return tokens.flatten(2).transpose(1, 2) + leaves["positions"]

    return leaves, embed


def _conv_then_drop(problem: Problem, dropout: float) -> tuple[Call, Leaves]:
    """All patches by Conv3d or Conv1d, positions, the kept ones by index, dropout, token. The same numbers as ours."""
    (leaves, embed), kept = _convolved(problem), problem.fixed["kept"]
    return lambda: (_with_token(F.dropout(embed()[:, kept], dropout), leaves["token"]),), leaves


def _timm(problem: Problem, dropout: float) -> tuple[Call, Leaves]:
    """As timm's VisionTransformer does it: convolution, positions, dropout, token, then timm's PatchDropout, which
    keeps as many patches as ours but draws them itself, other ones for each item and call."""
    leaves, embed = _convolved(problem)
    rate = patch_dropout_rate(problem.fixed["kept"].shape[-1], leaves["positions"].shape[0])
    drop = need("timm.layers", "PatchDropout")(rate, num_prefix_tokens=1).train()
    return lambda: (drop(_with_token(F.dropout(embed(), dropout), leaves["token"])),), leaves


def channels_first(x: Tensor, dtype: torch.dtype) -> Tensor:
    """uint8 video (B, T, H, W, 3) -> (B, 3, T, H, W) in [-1, 1]; a waveform (B, L) -> (B, 1, L). Of type ``dtype``."""
    if x.ndim == 2:
        return x[:, None].to(dtype)
    return x.permute(0, 4, 1, 2, 3).to(dtype).sub_(127.5).div_(127.5)


def patch_dropout_rate(kept: int, total: int) -> float:
    """The rate at which timm's PatchDropout keeps ``kept`` of ``total`` patches: it rounds total * (1 - rate) down, so
    half a patch more than wanted is safe from the rounding of the rate itself. Without a patch to drop: 0."""
    return 1 - (kept + 0.5) / total if kept < total else 0.0


_VIDEO: dict[str, Any] = dict(signal=(64, 32, 224, 224, 3), patch=(4, 16, 16), kept=784)
_AUDIO: dict[str, Any] = dict(signal=(64, 153600), patch=(128,), kept=600)
CASES: dict[str, tuple[Case, ...]] = {
    "gpu": (
        PatchEmbed(name="video_768", priority=1, width=768, **_VIDEO),
        PatchEmbed(name="audio_768", width=768, **_AUDIO),
        PatchEmbed(name="video_1024", width=1024, **_VIDEO),
    ),
    "cpu": (
        PatchEmbed(name="video_768", priority=1, width=768, **_VIDEO | base.F32 | dict(signal=(2, 32, 224, 224, 3))),
        PatchEmbed(name="audio_768", width=768, **_AUDIO | base.F32 | dict(signal=(4, 153600))),
    ),
    "tiny": (
        PatchEmbed(name="video", priority=1, signal=(2, 4, 8, 8, 3), patch=(2, 4, 4), kept=5, width=16, **base.TINY),
        PatchEmbed(name="audio", signal=(2, 70), patch=(8,), kept=4, width=32, **base.TINY),
    ),
}
TARGETS = (
    Target("at least 4x eager", ("video_768",), 4.0, (base.TORCH,)),
    Target("at least 2x torch.compile", ("video_768",), 2.0, (base.COMPILE,)),
    Target("at least 1.2x gather + cuBLAS", ("video_768",), 1.2, (GATHER,)),
    Target("at least 70% of the lower bound's rate", ("video_768",), 0.7, measure="floor_share"),
)

_WIDTHS = ("video_768", "video_1024")
SEARCH_SPACES = (
    SearchSpace(OP, "forward", "FORWARD_CONFIGS", ARCH, base.PRODUCT_GRID, _WIDTHS, backward=False),
    SearchSpace(OP, "weight", "WEIGHT_CONFIGS", ARCH, base.PRODUCT_GRID, _WIDTHS),
    SearchSpace(OP, "splits", "PROGRAMS", ARCH, base.PROGRAMS_GRID, _WIDTHS),
)

# Indices of patches, 8 bytes, are read by every thread for its rows; position rows come in the layout of the product.
_EXPECT = {
    "patch_embed_forward": Expect(base.TENSOR_CORES, wide=0.5),
    "patch_embed_dropped": Expect(),
    "patch_embed_weight": Expect(base.TENSOR_CORES, wide=0.5),
    "patch_embed_positions": Expect(wide=0.4),
}


def _compile(name: str, case: Case, per_item: bool = False) -> base.Compilation:
    """``per_item``: each item of the batch keeps other patches."""
    assert isinstance(case, PatchEmbed)

    def run() -> None:
        from vatt.kernels.patch_embed import triton_launch

        (N, P), B, K, D, patch, p = case.sizes, case.signal[0], case.kept, case.width, list(case.patch), 0.1
        x = meta(*case.signal, dtype=torch.uint8 if case.pixels else torch.float32)
        kept = meta(*((B, K) if per_item else (K,)), dtype=torch.int64)
        weight, bias, positions, token, seed = (meta(D, P), meta(D), meta(N, D), meta(D), base.meta_seed(p))
        out = triton_launch.forward(x, weight, bias, patch, kept, positions, token, seed, p)
        grad = triton_launch.dropped(out, 1, seed, p)
        triton_launch.weight_gradient(grad, x, patch, kept, 1)
        triton_launch.positions_gradient(grad, N, kept, 1)

    return base.Compilation(OP, name, run, _EXPECT)


_GPU = {case.name: case for case in CASES["gpu"]}
COMPILATIONS = (
    *(_compile(name, _GPU[name]) for name in _WIDTHS),
    _compile("video_per_item", _GPU["video_768"], per_item=True),
    _compile("audio_768", _GPU["audio_768"]),
)
