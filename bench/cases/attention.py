"""Attention on packed tokens, beside each kernel of others that is installed.

"NAME apart" gives another's kernel queries, keys and values as three tensors, so that it need not gather three
gradients into one: kinder to it than the models are, which project all three at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bench.cases import base
from bench.cases.base import ARCH, OURS, TORCH, Baseline, Call, Cost, Draw, Expect, Leaves, Problem, SearchSpace, meta
from vatt.kernels import attention, packed_attention
from vatt.kernels.attention.varlen import Segments, tokens
from vatt.kernels.registry import backends

OP = "attention"


@dataclass(frozen=True, kw_only=True)
class Attention(base.Case):
    """``batch`` sequences of one length. ``text``: with a key mask and T5's bias, and scores that are not scaled."""

    op = OP
    batch: int
    length: int
    heads: int
    head_dim: int = 64
    text: bool = False

    @property
    def scale(self) -> float:
        return 1.0 if self.text else self.head_dim**-0.5

    def inputs(self, draw: Draw) -> dict[str, Tensor]:
        B, N, H, E = self.batch, self.length, self.heads, self.head_dim
        # Queries and keys of a size that gives scores of variance 1 before the bias, whatever the scale.
        sizes = torch.tensor([(E**-0.5 / self.scale) ** 0.5] * 2 + [1.0], device=draw.device)[None, :, None, None]
        found = {"qkv": (draw.raw(B * N, 3, H, E) * sizes).to(draw.dtype).requires_grad_()}
        if self.text:
            found["bias"] = draw.leaf(H, N, N, std=0.5)
            found["mask"] = (torch.arange(N, device=draw.device) < draw.integers(1, N + 1, B, 1)).flatten()
        return found

    def bind(self, inputs: dict[str, Tensor], backend: str, dropout: float, seed: Tensor | None = None) -> Call:
        options = dict(mask=inputs.get("mask"), bias=inputs.get("bias"), scale=self.scale, dropout_p=dropout, seed=seed)
        segments = ((self.batch, self.length),)
        return lambda: (packed_attention(inputs["qkv"], segments, backend=backend, **options),)  # type: ignore

    def passes(self, dropout: float) -> tuple[Cost, Cost]:
        B, N, inner, s = self.batch, self.length, self.heads * self.head_dim, self.dtype.itemsize
        product, rows = 2 * B * N * N * inner, B * N * inner * s
        bias, mask = (self.heads * N * N * s, B * N) if self.text else (0, 0)
        return Cost(2 * product, 4 * rows + bias + mask), Cost(5 * product, 8 * rows + 2 * bias + mask)

    def baselines(self) -> dict[str, Baseline]:
        # Compiled from the call that can be traced whole.
        found = super().baselines() | {base.COMPILE: base.compiled(partial(self._apart, TORCH))}
        packed, dense = ([x for x in backends(op) if x not in (OURS, TORCH)] for op in ("packed_attention", OP))
        found |= {name: Baseline(base.ours(name), "kernels") for name in packed}
        return found | {f"{name} apart": Baseline(partial(self._apart, name), "kernels") for name in dense}

    def _apart(self, backend: str, problem: Problem, dropout: float) -> tuple[Call, Leaves]:
        shape, mask = (self.batch, self.length), problem.fixed.get("mask")
        parts = problem.leaves["qkv"].detach().unflatten(0, shape).unbind(2)
        leaves = {part: x.contiguous().requires_grad_() for part, x in zip("qkv", parts, strict=True)}
        leaves |= {name: x for name, x in problem.leaves.items() if name == "bias"}
        options: dict[str, Any] = dict(scale=self.scale, dropout_p=dropout, backend=backend)
        options["mask"] = None if mask is None else mask.view(shape)
        call = partial(attention, **options)
        return lambda: (call(*(leaves[part] for part in "qkv"), bias=leaves.get("bias")),), leaves  # type: ignore


CASES = (
    Attention(name="video_785_h12", priority=1, batch=64, length=785, heads=12),
    Attention(name="audio_601_h12", priority=1, batch=64, length=601, heads=12),
    Attention(name="finetune_3201_h12", priority=1, batch=8, length=3201, heads=12),
    Attention(name="text_17_h8", priority=1, batch=320, length=17, heads=8, text=True),
    Attention(name="video_785_h16", batch=64, length=785, heads=16),
    Attention(name="audio_601_h16", batch=64, length=601, heads=16),
    Attention(name="finetune_3201_h16", batch=8, length=3201, heads=16),
    Attention(name="video_785_h8", batch=64, length=785, heads=8),
    Attention(name="video_785_h12", size="cpu", priority=1, batch=1, length=785, heads=12),
    Attention(name="text_17_h8", size="cpu", batch=40, length=17, heads=8, text=True),
    Attention(name="video", size="tiny", priority=1, batch=1, length=18, heads=1, head_dim=16),
    Attention(name="text", size="tiny", batch=2, length=7, heads=1, head_dim=16, text=True),
)
_LONG = ("video_785_h12", "audio_601_h12", "finetune_3201_h12")
TARGETS = (base.Target("at least the best baseline", _LONG, 1.0, ("*",), but=(f"{OURS}*", TORCH, f"{base.COMPILE}*")),)

_GRID = ((64, 128), (32, 64), (4, 8), (2, 3), (0, 128))
_KEYS_GRID = (*_GRID[:4], (0, 168))
_SHORT_GRID, _TEXT = ((32, 64), (16, 32), (1, 2, 4), (1, 2)), ("text_17_h8",)
SEARCH_SPACES = (
    SearchSpace(OP, "forward", "LONG_CONFIGS", ("forward", ARCH, 64), _GRID, _LONG, backward=False),
    SearchSpace(OP, "keys", "LONG_CONFIGS", ("keys", ARCH, 64), _KEYS_GRID, _LONG),
    SearchSpace(OP, "queries", "LONG_CONFIGS", ("queries", ARCH, 64), _GRID, _LONG),
    SearchSpace(OP, "short forward", "SHORT_CONFIGS", "forward", _SHORT_GRID, _TEXT, backward=False),
    SearchSpace(OP, "short keys", "SHORT_CONFIGS", "keys", _SHORT_GRID, _TEXT),
    SearchSpace(OP, "short queries", "SHORT_CONFIGS", "queries", _SHORT_GRID, _TEXT),
)

_EXPECT = {
    "attention_forward": Expect(base.TENSOR_CORES),
    "attention_backward_queries": Expect(base.TENSOR_CORES),
    # Two numbers a query row, which every thread reads for itself: narrow, but from the L1 cache.
    "attention_backward_keys": Expect(base.TENSOR_CORES, wide=0),
}
# 17 tokens: a program reads 2 KB of each tensor once, and the bias and mask beside it, which are narrow.
_EXPECT_SHORT = dict.fromkeys((*_EXPECT, "attention_backward_bias"), Expect(base.MMA, wide=0))


def _launch(
    segments: Segments, heads: int = 12, head_dim: int = 64, p: float = 0.1, masked: bool = False, biased: bool = False
) -> None:
    from vatt.kernels.attention import triton_launch

    T, N = tokens(segments), segments[0][1]
    qkv, seed, scale = meta(T, 3, heads, head_dim), base.META_SEED if p > 0 else None, head_dim**-0.5
    mask = meta(T, dtype=torch.uint8) if masked else None
    bias = meta(heads, N, N) if biased else None
    flags = [masked] * len(segments)
    out, lse = triton_launch.forward(qkv, segments, flags, mask, bias, seed, scale, p)
    triton_launch.backward(meta(T, heads, head_dim), qkv, out, lse, segments, flags, mask, bias, seed, scale, p)


_LAUNCHES: dict[str, dict[str, Any]] = {
    "video_785_p0.1": dict(segments=((64, 785),)),
    "video_785_p0.0": dict(segments=((64, 785),), p=0.0),
    "audio_601": dict(segments=((64, 601),)),
    "finetuning_3201": dict(segments=((8, 3201),), heads=16),
    "ragged_masked": dict(segments=((9, 785), (3, 601)), heads=16, masked=True),
    "head_dim_128": dict(segments=((64, 785),), heads=8, head_dim=128),
    "sentences": dict(segments=((320, 17),), heads=8, masked=True, biased=True),
}
COMPILATIONS = tuple(
    base.Compilation(OP, name, partial(_launch, **options), _EXPECT_SHORT if "biased" in options else _EXPECT)
    for name, options in _LAUNCHES.items()
)
