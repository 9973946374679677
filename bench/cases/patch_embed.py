"""Patch embedding: kept patches of a video or a waveform become tokens.

Beside it: gather the kept patches and leave the rest to cuBLAS; and the usual way, a strided convolution that embeds
all patches, after which most of the work is thrown away. The convolution holds its weight as PyTorch's modules do: leaf
"kernel" (D, 3, t, h, w) or (D, 1, t), which is ours (D, t * h * w * 3) in another order (`native`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.baselines import need
from bench.cases import base
from bench.cases.base import ARCH, Baseline, Call, Cost, Draw, Expect, Leaves, Problem, SearchSpace, Target, meta
from vatt.kernels import patch_embed
from vatt.kernels.patch_embed.reference import normalise_uint8

OP = "patch_embed"
GATHER, CONV, TIMM = "gather + cuBLAS", "conv, then drop", "timm"


@dataclass(frozen=True, kw_only=True)
class PatchEmbed(base.Case):
    """``signal`` is (B, T, H, W, 3) in uint8 or (B, L) in floating point; ``kept`` of its patches become tokens."""

    op = OP
    backends = (base.OURS, "gather")
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

    def inputs(self, draw: Draw) -> dict[str, Tensor]:
        (N, P), D = self.sizes, self.width
        if self.pixels:
            x = draw.integers(0, 256, *self.signal, dtype=torch.uint8)
        else:  # a waveform arrives in float32; rounded here, so that all backends see the same numbers
            x = draw.raw(*self.signal, std=0.3).to(draw.dtype).float()
        kept = torch.randperm(N, generator=draw.generator, device=draw.device)[: self.kept]
        return {
            "x": x,
            "kept": kept,
            "weight": draw.leaf(D, P, std=P**-0.5),
            "bias": draw.leaf(D, std=0.1),
            "positions": draw.leaf(N, D, std=0.1),
            "token": draw.leaf(D, std=0.1),
        }

    def bind(self, inputs: dict[str, Tensor], backend: str, dropout: float, seed: Tensor | None = None) -> Call:
        rest: dict[str, Any] = {name: inputs[name] for name in ("kept", "positions", "token")}
        rest |= dict(dropout_p=dropout, seed=seed, backend=backend)
        return lambda: (patch_embed(inputs["x"], inputs["weight"], inputs["bias"], self.patch, **rest),)

    def passes(self, dropout: float) -> tuple[Cost, Cost]:
        """Only kept patches are read, and the backward pass has no gradient of the input."""
        (N, P), B, K, D, s = self.sizes, self.signal[0], self.kept, self.width, self.dtype.itemsize
        flops = 2 * B * K * P * D
        signal = B * K * P * (1 if self.pixels else 4)  # a waveform stays float32, whatever the model's type
        tokens, weight, index = B * (1 + K) * D * s, D * P * s, 8 * K
        forward = Cost(flops, signal + index + weight + (K + 2) * D * s + tokens)
        return forward, Cost(flops, signal + index + tokens + weight + (N + 2) * D * s)

    def baselines(self) -> dict[str, Baseline]:
        found = super().baselines() | {GATHER: Baseline(self._gather)}
        found[CONV] = Baseline(partial(self._convolution, False))
        found[TIMM] = Baseline(partial(self._convolution, True), same=False)  # it chooses its own patches
        return found | {f"{base.COMPILE} of gather": base.compiled(self._gather)}

    def _gather(self, problem: Problem, dropout: float) -> tuple[Call, Leaves]:
        """Gathers the kept patches, normalises them in bfloat16, and leaves the rest to cuBLAS: the plain way to skip
        what DropToken drops. Written for speed: positions and bias are added to the product in one pass, in place of
        two."""
        leaves, x, kept = problem.leaves, problem.fixed["x"], problem.fixed["kept"]

        def call() -> tuple[Tensor, ...]:
            patches, weight = _gather_patches(x, self.patch, kept), leaves["weight"]
            patches = normalise_uint8(patches, weight.dtype) if self.pixels else patches.to(weight.dtype)
            tokens = F.linear(patches, weight) + (leaves["positions"][kept] + leaves["bias"])
            return (_with_token(F.dropout(tokens, dropout), leaves["token"]),)

        return call, leaves

    def _convolution(self, timm: bool, problem: Problem, dropout: float) -> tuple[Call, Leaves]:
        """All patches, positions, the kept ones by index, dropout, token: the same numbers as ours. Or ``timm``, as its
        VisionTransformer does it: all patches, positions, dropout, token, then its PatchDropout, which keeps as many
        patches as ours but draws them itself, other ones for each item and call."""
        x, kept = problem.fixed["x"], None if timm else problem.fixed["kept"]
        drop = patch_dropout(self.kept, self.sizes[0]) if timm else None
        leaves: Leaves = {name: problem.leaves[name] for name in ("bias", "positions", "token")}
        leaves["kernel"] = nn.Parameter(native(problem.leaves["weight"].detach(), self).contiguous())
        with torch.device("meta"):
            tokens = ConvTokens(self.patch, self.sizes[0], self.width, dropout, drop)
        names = {"kernel": "embed.weight", "bias": "embed.bias"}
        tokens.load_state_dict({names.get(name, name): leaf for name, leaf in leaves.items()}, assign=True)
        return lambda: (tokens(x, kept),), leaves


def _gather_patches(x: Tensor, patch: tuple[int, ...], kept: Tensor) -> Tensor:
    """Kept patches (B, K, P) of a video or a waveform, in one copy. As the reference, but all on the device."""
    if x.ndim == 2:
        return x[:, : x.shape[1] // patch[0] * patch[0]].unflatten(1, (-1, *patch))[:, kept]
    T, H, W = (size // side for size, side in zip(x.shape[1:], patch, strict=False))
    blocks = x.view(x.shape[0], T, patch[0], H, patch[1], W, patch[2], 3).permute(0, 1, 3, 5, 2, 4, 6, 7)
    return blocks[:, kept // (H * W), kept // W % H, kept % W].flatten(2)


def _with_token(tokens: Tensor, token: Tensor) -> Tensor:
    return torch.cat([token.expand(len(tokens), 1, -1), tokens], dim=1)


def native(weight: Tensor, case: PatchEmbed) -> Tensor:
    """Our weight (D, P) in the layout of a convolution."""
    return weight.unflatten(1, (*case.patch, 3)).movedim(-1, 1) if case.pixels else weight[:, None, :]


class ConvTokens(nn.Module):
    """Tokens of all ``patches`` (N) by Conv3d or Conv1d, with learned positions, dropout, and a token in front.

    ``drop``, behind it all: tokens (B, 1 + N, D) -> (B, 1 + K, D), such as `patch_dropout`.
    """

    def __init__(
        self, patch: tuple[int, ...], patches: int, width: int, dropout: float, drop: nn.Module | None = None
    ) -> None:
        super().__init__()
        conv, channels = (nn.Conv3d, 3) if len(patch) == 3 else (nn.Conv1d, 1)
        self.embed = conv(channels, width, patch, patch)  # type: ignore[arg-type]
        self.positions = nn.Parameter(0.02 * torch.randn(patches, width))
        self.token = nn.Parameter(0.02 * torch.randn(width))
        self.dropout, self.drop = nn.Dropout(dropout), drop or nn.Identity()

    def forward(self, x: Tensor, kept: Tensor | None = None) -> Tensor:
        """(B, T, H, W, 3) uint8 or (B, L) -> (B, 1 + K, D); ``kept`` (K,): indices, by default of all patches."""
        x = self.embed(channels_first(x, self.token.dtype)).flatten(2).transpose(1, 2) + self.positions
        return self.drop(_with_token(self.dropout(x if kept is None else x[:, kept]), self.token))


def channels_first(x: Tensor, dtype: torch.dtype) -> Tensor:
    """uint8 video (B, T, H, W, 3) -> (B, 3, T, H, W) in [-1, 1]; a waveform (B, L) -> (B, 1, L). Of type ``dtype``."""
    if x.ndim == 2:
        return x[:, None].to(dtype)
    return normalise_uint8(x.permute(0, 4, 1, 2, 3), dtype)


def patch_dropout_rate(kept: int, total: int) -> float:
    """The rate at which timm's PatchDropout keeps ``kept`` of ``total`` patches: it rounds total * (1 - rate) down, so
    half a patch more than wanted is safe from the rounding of the rate itself. Without a patch to drop: 0."""
    return 1 - (kept + 0.5) / total if kept < total else 0.0


def patch_dropout(kept: int, total: int) -> nn.Module:
    """timm's, behind a token in front."""
    drop: nn.Module = need("timm.layers", "PatchDropout")(patch_dropout_rate(kept, total), num_prefix_tokens=1)
    return drop


_VIDEO: dict[str, Any] = dict(signal=(64, 32, 224, 224, 3), patch=(4, 16, 16), kept=784)
_AUDIO: dict[str, Any] = dict(signal=(64, 153600), patch=(128,), kept=600)
CASES = (
    PatchEmbed(name="video_768", priority=1, width=768, **_VIDEO),
    PatchEmbed(name="audio_768", width=768, **_AUDIO),
    PatchEmbed(name="video_1024", width=1024, **_VIDEO),
    PatchEmbed(name="video_768", size="cpu", priority=1, width=768, **_VIDEO | dict(signal=(2, 32, 224, 224, 3))),
    PatchEmbed(name="audio_768", size="cpu", width=768, **_AUDIO | dict(signal=(4, 153600))),
    PatchEmbed(name="video", size="tiny", priority=1, signal=(2, 4, 8, 8, 3), patch=(2, 4, 4), kept=5, width=16),
    PatchEmbed(name="audio", size="tiny", signal=(2, 70), patch=(8,), kept=4, width=32),
)
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
    "patch_embed_rows": Expect(),
    "patch_embed_starts": Expect(wide=0.0),
    "patch_embed_weight": Expect(base.TENSOR_CORES, wide=0.5),
    "patch_embed_positions": Expect(wide=0.4),
}
_EXPECT_GATHER = {"patch_gather": Expect(), "patch_finish": Expect()}


def _launch(case: PatchEmbed, per_item: bool = False, gathered: bool = False) -> None:
    """``per_item``: each item of the batch keeps other patches. ``gathered``: they are rows already."""
    from vatt.kernels.patch_embed import triton_launch

    (N, P), B, K, D, patch, p = case.sizes, case.signal[0], case.kept, case.width, list(case.patch), 0.1
    x = meta(*((B, K * P) if gathered else case.signal), dtype=torch.uint8 if case.pixels else torch.float32)
    patch = [P] if gathered else patch
    kept = meta(*((B, K) if per_item else (K,)), dtype=torch.int64)
    weight, bias, positions, token, seed = meta(D, P), meta(D), meta(N, D), meta(D), base.META_SEED
    out = triton_launch.forward(x, weight, bias, patch, kept, positions, token, seed, p, gathered)
    grad, sums = triton_launch.rows_gradient(out, 1, seed, p)
    triton_launch.weight_gradient(grad, x, patch, kept, 1, gathered)
    triton_launch.positions_gradient(grad, sums, N, kept, 1)


def _launch_gather(case: PatchEmbed) -> None:
    """What "gather" adds."""
    from vatt.kernels.patch_embed import triton_gather

    (N, _), B, K, D = case.sizes, case.signal[0], case.kept, case.width
    x, kept = meta(*case.signal, dtype=torch.uint8 if case.pixels else torch.float32), meta(K, dtype=torch.int64)
    triton_gather.gather(x, list(case.patch), kept, 1, torch.bfloat16)
    triton_gather.finish(meta(B, 1 + K, D), meta(D), kept, meta(N, D), meta(D), base.META_SEED, 0.1)


_GPU = {case.name: partial(_launch, case) for case in CASES if case.size == "gpu"}
_LAUNCHES = {name: _GPU[name] for name in _WIDTHS}
_LAUNCHES["video_gathered"] = partial(_GPU["video_768"], gathered=True)
_LAUNCHES |= {"video_per_item": partial(_GPU["video_768"], per_item=True), "audio_768": _GPU["audio_768"]}
COMPILATIONS = tuple(base.Compilation(OP, name, launch, _EXPECT) for name, launch in _LAUNCHES.items())
COMPILATIONS += tuple(
    base.Compilation(OP, f"{case.name}_gather", partial(_launch_gather, case), _EXPECT_GATHER)
    for case in CASES
    if case.size == "gpu" and case.width == 768
)
