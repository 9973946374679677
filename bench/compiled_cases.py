"""What `bench.compiled` compiles: the calls of the kernels that the models make, at their shapes, in bfloat16.

A new operation adds a function that calls its launchers on tensors from `_meta`, and one `Case` to `CASES`. Triton is
imported inside these functions only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from vatt.kernels.attention.varlen import Segments, tokens

ARCHITECTURES = ("sm_80", "sm_90", "sm_100")  # A100, H100, B200
MMA = dict.fromkeys(ARCHITECTURES, ("mma",))  # tiles too small for the instructions of a warp group
TENSOR_CORES = {"sm_80": ("mma",), "sm_90": ("wgmma",), "sm_100": ("tcgen05",)}  # the fastest of each chip


@dataclass(frozen=True)
class Expect:
    """What the compiled code of one kernel must have.

    ``matrix``: by architecture, the matrix instructions that it may use, and one of which it must use; None for a
    kernel without products. ``wide``: the share of its bytes that accesses of 16 bytes move, at least.
    """

    matrix: Mapping[str, tuple[str, ...]] | None = None
    wide: float = 0.7  # the scalars of a row are narrow in any code


@dataclass(frozen=True)
class Case:
    """``run`` launches kernels on tensors without memory; ``expect`` has an entry for each of them by its name."""

    op: str
    name: str
    run: Callable[[], None]
    expect: Mapping[str, Expect]


def _meta(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def _norm(rows: int, width: int, centred: bool, p: float) -> None:
    from vatt.kernels.norm import triton_launch

    x, residual, weight = _meta(rows, width), _meta(rows, width), _meta(width)
    bias = _meta(width) if centred else None
    seed = _seed(p)
    total, normed, mean, rstd = triton_launch.forward(x, residual, weight, bias, seed, 1e-6, p)
    triton_launch.backward(total, normed, total, weight, mean if centred else None, rstd, seed, p)


def _mlp(rows: int, width: int, inner: int, p: float) -> None:
    from vatt.kernels.mlp import triton_launch

    x, bias, seed = _meta(rows, inner), _meta(inner), _seed(p)
    triton_launch.forward(x, bias, seed, p)
    triton_launch.backward(x, x, bias, seed, p)
    triton_launch.linear_forward(_meta(rows, width), _meta(inner, width), bias, seed, p)


def _attention(segments: Segments, heads: int, head_dim: int, masked: bool, biased: bool, p: float) -> None:
    from vatt.kernels.attention import triton_launch

    T, N = tokens(segments), segments[0][1]
    qkv, seed, scale = _meta(T, 3, heads, head_dim), _seed(p), head_dim**-0.5
    mask = _meta(T, dtype=torch.uint8) if masked else None
    bias = _meta(heads, N, N) if biased else None
    flags = [masked] * len(segments)
    out, lse = triton_launch.forward(qkv, segments, flags, mask, bias, seed, scale, p)
    triton_launch.backward(_meta(T, heads, head_dim), qkv, out, lse, segments, flags, mask, bias, seed, scale, p)


def _patch_embed(x: Tensor, patch: list[int], width: int, kept: int, patches: int, p: float, per_item: bool) -> None:
    from vatt.kernels.patch_embed import triton_launch

    P = math.prod(patch) * (x.shape[-1] if x.ndim == 2 + len(patch) else 1)
    places = _meta(*((x.shape[0], kept) if per_item else (kept,)), dtype=torch.int64)
    weight, bias, positions, token, seed = _meta(width, P), _meta(width), _meta(patches, width), _meta(width), _seed(p)
    out = triton_launch.forward(x, weight, bias, patch, places, positions, token, seed, p)
    grad = triton_launch.dropped(out, 1, seed, p)
    triton_launch.weight_gradient(grad, x, patch, places, 1)
    triton_launch.positions_gradient(grad, patches, places, 1)


def _nce_forward(queries: int, keys: int, width: int, masked: bool, dtype: torch.dtype) -> None:
    from vatt.kernels.nce import triton_launch

    mask = _meta(keys, dtype=torch.uint8) if masked else None
    triton_launch.forward(_meta(queries, width, dtype=dtype), _meta(keys, width, dtype=dtype), mask, 0.07)


def _nce_gradient(queries: int, keys: int, width: int, masked: bool, dtype: torch.dtype, of_queries: bool) -> None:
    from vatt.kernels.nce import triton_launch

    mask, lse = _meta(keys, dtype=torch.uint8) if masked else None, _meta(queries, dtype=torch.float32)
    rows = _meta(queries, width, dtype=dtype), _meta(keys, width, dtype=dtype)
    own, other = rows if of_queries else reversed(rows)
    triton_launch.gradient(own, other, mask, lse, lse, 0.07, of_queries)


def _seed(p: float) -> Tensor | None:
    return _meta(1, dtype=torch.int64) if p > 0 else None


def _nce_cases() -> Iterator[Case]:
    """Single precision is what the loss runs in: the embeddings are normalised in it."""
    sizes = {"text": (32768, 163840, 256, True), "audio": (256, 2048, 512, False)}
    for name, size in sizes.items():
        for kind in (torch.float32, torch.bfloat16):
            label = f"{name}_{str(kind).removeprefix('torch.')}"
            yield Case(
                "nce", label, partial(_nce_forward, *size, kind), {"similarity_lse_forward": Expect(TENSOR_CORES)}
            )
            for part, of_queries in (("queries", True), ("keys", False)):
                run = partial(_nce_gradient, *size, kind, of_queries)
                yield Case("nce", f"{label}_{part}", run, {"similarity_lse_gradient": Expect(TENSOR_CORES)})


NORM = {"norm_forward": Expect(), "norm_backward": Expect()}
MLP = {"bias_gelu_forward": Expect(), "bias_gelu_backward": Expect(), "linear_gelu_forward": Expect(TENSOR_CORES)}
ATTENTION = {
    "attention_forward": Expect(TENSOR_CORES),
    "attention_backward_queries": Expect(TENSOR_CORES),
    # Two numbers a query row, which every thread reads for itself: narrow, but from the L1 cache.
    "attention_backward_keys": Expect(TENSOR_CORES, wide=0),
}
# 17 tokens: a program reads 2 KB of each tensor once, and the bias and mask beside it, which are narrow.
SENTENCES = {
    "attention_forward": Expect(MMA, wide=0),
    "attention_backward_queries": Expect(MMA, wide=0),
    "attention_backward_keys": Expect(MMA, wide=0),
    "attention_backward_bias": Expect(MMA, wide=0),
}
# Indices of patches, 8 bytes, are read by every thread for its rows; position rows come in the layout of the product.
PATCHES = {
    "patch_embed_forward": Expect(TENSOR_CORES, wide=0.5),
    "patch_embed_dropped": Expect(),
    "patch_embed_weight": Expect(TENSOR_CORES, wide=0.5),
    "patch_embed_positions": Expect(wide=0.4),
}
VIDEO = _meta(64, 32, 224, 224, 3, dtype=torch.uint8)
AUDIO = _meta(64, 153600, dtype=torch.float32)

CASES = [
    *(Case("norm", f"layer_{width}", partial(_norm, 64 * 785, width, True, 0.1), NORM) for width in (512, 768, 1024)),
    Case("norm", "rms_512", partial(_norm, 320 * 17, 512, False, 0.1), NORM),
    *(Case("mlp", f"video_{d}", partial(_mlp, 64 * 785, d, 4 * d, 0.1), MLP) for d in (768, 1024)),
    *(
        Case("attention", f"video_785_p{p}", partial(_attention, ((64, 785),), 12, 64, False, False, p), ATTENTION)
        for p in (0.1, 0.0)
    ),
    Case("attention", "audio_601", partial(_attention, ((64, 601),), 12, 64, False, False, 0.1), ATTENTION),
    Case("attention", "finetuning_3201", partial(_attention, ((8, 3201),), 16, 64, False, False, 0.1), ATTENTION),
    Case("attention", "ragged_masked", partial(_attention, ((9, 785), (3, 601)), 16, 64, True, False, 0.1), ATTENTION),
    Case("attention", "head_dim_128", partial(_attention, ((64, 785),), 8, 128, False, False, 0.1), ATTENTION),
    Case("attention", "sentences", partial(_attention, ((320, 17),), 8, 64, True, True, 0.1), SENTENCES),
    *(
        Case("patch_embed", f"video_{d}", partial(_patch_embed, VIDEO, [4, 16, 16], d, 784, 1568, 0.1, False), PATCHES)
        for d in (768, 1024)
    ),
    Case(
        "patch_embed", "video_per_item", partial(_patch_embed, VIDEO, [4, 16, 16], 768, 784, 1568, 0.1, True), PATCHES
    ),
    Case("patch_embed", "audio_768", partial(_patch_embed, AUDIO, [128], 768, 600, 1200, 0.1, False), PATCHES),
    *_nce_cases(),
]
