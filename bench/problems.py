"""The inputs of a shape on a device, and the call of its operation: what correctness, speed and sweep all run.

Inputs are random, drawn anew for each seed, never zeros.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from bench import block
from bench.shapes import AttentionShape, BlockShape, MlpShape, NceShape, NormShape, PatchShape, Shape
from vatt.kernels import layer_norm, mlp, packed_attention, patch_embed, rms_norm
from vatt.kernels.nce import Rows, nce

Leaves = dict[str, Tensor]
Bound = Callable[[], tuple[Tensor, ...]]


@dataclass
class Problem:
    """``leaves``: the differentiable inputs by name; ``fixed``: the others. ``bind`` (leaves, backend, dropout) gives
    the call, without arguments; ``outputs`` names what it returns. ``parts``: in how many slices of its items the plain
    one runs when its intermediates would not fit; ``notes``: what a reader of a row must know."""

    shape: Shape
    device: torch.device
    leaves: Leaves
    fixed: dict[str, Any]
    bind: Callable[..., Bound]
    outputs: tuple[str, ...]
    parts: int = 1
    notes: list[str] = field(default_factory=list)

    def copy(self, dtype: torch.dtype) -> Leaves:
        """The leaves in another type, with the same (rounded) numbers."""
        return {name: leaf.detach().to(dtype).requires_grad_() for name, leaf in self.leaves.items()}

    def call(self, backend: str, dropout: float) -> Bound:
        """On the leaves themselves."""
        return self.bind(self.leaves, backend, dropout)

    def refresh(self, leaves: Leaves) -> None:
        """New numbers into ``leaves`` and the signal, in place and of the same distribution: their rows change places.
        A call after it cannot live on what an earlier one left in a cache."""
        signal = self.fixed.get("x")
        with torch.no_grad():
            for x in (*leaves.values(), *(() if signal is None else (signal,))):
                x.copy_(x.flip(0))

    def gradients(self, outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Random gradients of the outputs, always the same numbers."""
        g = torch.Generator(self.device).manual_seed(1)
        shape = dict(generator=g, device=self.device)
        return tuple(torch.randn(x.shape, **shape).to(self.shape.dtype).to(x.dtype) for x in outputs)  # type: ignore


def make(shape: Shape, device: torch.device, seed: int = 0) -> Problem:
    """The problem of a shape, with random inputs."""
    draw = _Draw(device, shape.dtype, seed)
    return _MAKERS[type(shape)](shape, draw)


class _Draw:
    """Random leaves of one type on one device."""

    def __init__(self, device: torch.device, dtype: torch.dtype, seed: int) -> None:
        self.device, self.dtype = device, dtype
        self.generator = torch.Generator(device).manual_seed(seed)

    def raw(self, *shape: int, std: float = 1.0, mean: float = 0.0) -> Tensor:
        return torch.randn(shape, generator=self.generator, device=self.device) * std + mean

    def leaf(self, *shape: int, std: float = 1.0, mean: float = 0.0) -> Tensor:
        return self.raw(*shape, std=std, mean=mean).to(self.dtype).requires_grad_()

    def bytes(self, *shape: int) -> Tensor:
        return torch.randint(0, 256, shape, generator=self.generator, device=self.device, dtype=torch.uint8)


def _patch(shape: PatchShape, draw: _Draw) -> Problem:
    counts = [size // side for size, side in zip(shape.signal[1:], shape.patch, strict=False)]
    N, D = math.prod(counts), shape.width
    P = math.prod(shape.patch) * (3 if shape.pixels else 1)
    # A waveform arrives in float32; rounded here, so that all backends see the same numbers.
    x = draw.bytes(*shape.signal) if shape.pixels else draw.raw(*shape.signal, std=0.3).to(draw.dtype).float()
    kept = torch.randperm(N, generator=draw.generator, device=draw.device)[: shape.kept]
    leaves = {
        "weight": draw.leaf(D, P, std=P**-0.5),
        "bias": draw.leaf(D, std=0.1),
        "positions": draw.leaf(N, D, std=0.1),
        "token": draw.leaf(D, std=0.1),
    }

    def bind(leaves: Leaves, backend: str, dropout: float) -> Bound:
        rest = dict(kept=kept, positions=leaves["positions"], token=leaves["token"], dropout_p=dropout, backend=backend)
        return lambda: (patch_embed(x, leaves["weight"], leaves["bias"], shape.patch, **rest),)  # type: ignore[arg-type]

    return Problem(shape, draw.device, leaves, {"x": x, "kept": kept}, bind, ("out",))


def _attention(shape: AttentionShape, draw: _Draw) -> Problem:
    B, N, H, E = shape.batch, shape.length, shape.heads, shape.head_dim
    # Queries and keys of a size that gives scores of variance 1 before the bias, whatever the scale.
    sizes = torch.tensor([(E**-0.5 / shape.scale) ** 0.5] * 2 + [1.0], device=draw.device)[None, :, None, None]
    leaves = {"qkv": (draw.raw(B * N, 3, H, E) * sizes).to(draw.dtype).requires_grad_()}
    mask = None
    if shape.text:
        leaves["bias"] = draw.leaf(H, N, N, std=0.5)
        words = torch.randint(1, N + 1, (B, 1), generator=draw.generator, device=draw.device)
        mask = (torch.arange(N, device=draw.device) < words).flatten()

    def bind(leaves: Leaves, backend: str, dropout: float) -> Bound:
        options: dict[str, Any] = dict(mask=mask, bias=leaves.get("bias"), scale=shape.scale, dropout_p=dropout)
        return lambda: (packed_attention(leaves["qkv"], ((B, N),), backend=backend, **options),)

    return Problem(shape, draw.device, leaves, {"mask": mask}, bind, ("out",))


def _norm(shape: NormShape, draw: _Draw) -> Problem:
    R, D = shape.rows, shape.width
    leaves = {"x": draw.leaf(R, D), "residual": draw.leaf(R, D, mean=0.2), "weight": draw.leaf(D, std=0.2, mean=1.0)}
    if shape.centred:
        leaves["bias"] = draw.leaf(D, std=0.2)

    def bind(leaves: Leaves, backend: str, dropout: float) -> Bound:
        options: dict[str, Any] = dict(residual=leaves["residual"], dropout_p=dropout, backend=backend)
        if shape.centred:
            return lambda: layer_norm(leaves["x"], leaves["weight"], leaves["bias"], **options)  # type: ignore
        return lambda: rms_norm(leaves["x"], leaves["weight"], **options)  # type: ignore

    return Problem(shape, draw.device, leaves, {}, bind, ("total", "normed"))


def _mlp(shape: MlpShape, draw: _Draw) -> Problem:
    R, D, M = shape.rows, shape.width, shape.inner
    leaves = {
        "x": draw.leaf(R, D),
        "weight_in": draw.leaf(M, D, std=D**-0.5),
        "bias_in": draw.leaf(M, std=0.2),
        "weight_out": draw.leaf(D, M, std=M**-0.5),
        "bias_out": draw.leaf(D, std=0.2),
    }

    def bind(leaves: Leaves, backend: str, dropout: float) -> Bound:
        return lambda: (mlp(*leaves.values(), dropout_p=dropout, backend=backend),)

    return Problem(shape, draw.device, leaves, {}, bind, ("out",))


def _block(shape: BlockShape, draw: _Draw) -> Problem:
    B, N, D = shape.batch, shape.length, shape.width
    leaves = {"stream": draw.leaf(B, N, D), "update": draw.leaf(B, N, D)}
    leaves |= {name: draw.leaf(*size, **how) for name, (size, how) in block.parameters(shape).items()}

    def bind(leaves: Leaves, backend: str, dropout: float) -> Bound:
        return block.bound(shape, leaves, backend, dropout)

    return Problem(shape, draw.device, leaves, {}, bind, ("stream", "update"))


def _nce(shape: NceShape, draw: _Draw) -> Problem:
    """Texts lie near their video, so that the loss is neither chance nor zero. Local and gathered rows are leaves of
    their own, as they are on several ranks."""
    V, C, D = shape.videos, shape.candidates, shape.width
    video = draw.raw(V, 1, D)
    text = 0.3 * video + draw.raw(V, C, D)
    rows = {
        "first": torch.nn.functional.normalize(video, dim=-1),
        "second": torch.nn.functional.normalize(text, dim=-1),
    }
    leaves = {f"{name}_{part}": x.to(draw.dtype).clone() for name, x in rows.items() for part in ("local", "all")}
    for leaf in leaves.values():
        leaf.requires_grad_()

    def bind(leaves: Leaves, backend: str, dropout: float, items: slice = slice(None)) -> Bound:
        def call() -> tuple[Tensor, ...]:
            first = Rows(leaves["first_local"][items], leaves["first_all"])
            second = Rows(leaves["second_local"][items], leaves["second_all"])
            return (nce(first, second, temperature=shape.temperature, backend=backend),)

        return call

    # A slice of the plain loss has a few matrices (items, 2 V C) in float32 or wider: at most about 2 GiB each.
    parts = min(V, max(2, -(-V * 2 * V * C * 8 // 2**31)))
    return Problem(shape, draw.device, leaves, {}, bind, ("loss",), parts=parts)


_MAKERS: dict[type[Shape], Callable[[Any, _Draw], Problem]] = {
    PatchShape: _patch,
    AttentionShape: _attention,
    NormShape: _norm,
    MlpShape: _mlp,
    BlockShape: _block,
    NceShape: _nce,
}
