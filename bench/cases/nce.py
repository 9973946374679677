"""The contrastive loss of videos and texts (or sounds), beside the losses of open_clip and plain PyTorch in slices.

open_clip's loss is another: a cross-entropy each way, of all logits in memory; the texts at the same place among the
candidates are the negatives. But it makes the same products.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from bench.baselines import need
from bench.cases import base
from bench.cases.base import ARCH, OURS, Baseline, Call, Cost, Draw, Leaves, Problem, SearchSpace, Target, meta
from vatt.kernels.nce import Rows, nce

OP = "nce"
OPEN_CLIP, SLICES, CLIP, MATMUL = "open_clip", "torch in slices", "open_clip package", "matmul"


@dataclass(frozen=True, kw_only=True)
class Nce(base.Case):
    """``videos`` against ``candidates`` texts (or one sound) each, on one rank: local rows are all rows.
    ``products``: the type of the products, None for that of the rows."""

    op = OP
    outputs = ("loss",)
    has_dropout = False
    videos: int
    candidates: int
    width: int
    temperature: float = 0.07
    products: torch.dtype | None = None

    def inputs(self, draw: Draw) -> dict[str, Tensor]:
        """Texts lie near their video, so that the loss is neither chance nor zero."""
        V, C, D = self.videos, self.candidates, self.width
        video = draw.raw(V, 1, D)
        rows = {"first": F.normalize(video, dim=-1), "second": F.normalize(0.3 * video + draw.raw(V, C, D), dim=-1)}
        return {name: x.to(draw.dtype).clone().requires_grad_() for name, x in rows.items()}

    def bind(self, inputs: dict[str, Tensor], backend: str, dropout: float, items: slice | None = None) -> Call:
        def call() -> tuple[Tensor, ...]:
            everywhere = inputs["first"], inputs["second"]
            pair = (Rows(x if items is None else x[items], x) for x in everywhere)
            return (nce(*pair, temperature=self.temperature, precision=self.products, backend=backend),)

        return call

    @property
    def slices(self) -> list[slice]:
        """Of the items of the plain loss, which has a few matrices (items, 2 V C) in float32 or wider: at most about 2
        GiB each."""
        V = self.videos
        parts = min(V, max(2, -(-V * 2 * V * self.candidates * 8 // 2**31)))
        step = -(-V // parts)
        return [slice(first, min(first + step, V)) for first in range(0, V, step)]

    def passes(self, dropout: float) -> tuple[Cost, Cost]:
        """One product, of videos and texts, and three for the gradients: one of them is that of the forward pass
        again."""
        V, C, D, s = self.videos, self.candidates, self.width, self.dtype.itemsize
        product, rows = 2 * V * V * C * D, (V + V * C) * D * s
        return Cost(product, rows + V * s), Cost(3 * product, 2 * rows + V * s)

    def cost(self, backward: bool, dropout: float = 0.0, provider: str = OURS) -> Cost:
        """open_clip's loss makes one matrix of logits and keeps it: one product there and two back."""
        needed = super().cost(backward, dropout)
        if OPEN_CLIP not in provider:
            return needed
        return Cost((3 if backward else 1) * 2 * self.videos**2 * self.candidates * self.width, needed.bytes)

    def baselines(self) -> dict[str, Baseline]:
        found = super().baselines()
        found[MATMUL] = Baseline(base.ours(MATMUL), needs="kernels")
        found |= {OPEN_CLIP: Baseline(self._open_clip, same=False), SLICES: Baseline(self._in_slices)}
        found[CLIP] = Baseline(self._package, same=False)
        return found | {f"{base.COMPILE} of open_clip": base.compiled(self._open_clip, same=False)}

    def _open_clip(self, problem: Problem, dropout: float) -> tuple[Call, Leaves]:
        leaves = _copies(problem)

        def call() -> tuple[Tensor, ...]:
            video, text = (x.flatten(0, 1) for x in leaves.values())
            return (clip_style(video, text, self.temperature),)

        return call, leaves

    def _package(self, problem: Problem, dropout: float) -> tuple[Call, Leaves]:
        """open_clip's own ClipLoss, the mean over the candidates, since it takes one text a video."""
        if dropout > 0:
            raise ValueError(f"open_clip's loss has no dropout, {dropout:g} was asked for")
        loss, leaves = need("open_clip.loss", "ClipLoss")(), _copies(problem)

        def call() -> tuple[Tensor, ...]:
            video, texts = leaves["first"].squeeze(1), leaves["second"].unbind(1)
            return (torch.stack([loss(video, text, 1 / self.temperature) for text in texts]).mean(),)

        return call, leaves

    def _in_slices(self, problem: Problem, dropout: float) -> tuple[Call, Leaves]:
        """Plain PyTorch where the whole matrix does not fit: slices of the items, computed again in the backward
        pass."""
        calls = [problem.call(base.TORCH, items=items) for items in self.slices]
        return lambda: (torch.cat([checkpoint(call, use_reentrant=False)[0] for call in calls]),), problem.leaves


def _copies(problem: Problem) -> Leaves:
    return {name: x.detach().clone().requires_grad_() for name, x in problem.leaves.items()}


def clip_style(video: Tensor, text: Tensor, temperature: float) -> Tensor:
    """The loss of CLIP as open_clip writes it, of unit rows (V, D) and (V * C, D): a cross-entropy each way. Of several
    texts a video the first is the positive, and no positive counts twice."""
    # The temperature divides the rows, not the logits, which saves a matrix.
    logits = (video / temperature) @ text.T
    texts, C = torch.arange(len(text), device=text.device), len(text) // len(video)
    return (F.cross_entropy(logits, texts[::C]) + F.cross_entropy(logits.T, texts // C)) / 2


# The loss normalises its rows in float32. A run in bfloat16 rounds them to float16 for products.
_F32 = torch.float32
CASES = (
    Nce(name="mil_32768x5_f32", priority=1, videos=32768, candidates=5, width=256, dtype=_F32),
    Nce(name="mil_32768x5_bf16", priority=1, videos=32768, candidates=5, width=256),
    Nce(name="mil_32768x5", videos=32768, candidates=5, width=256, dtype=_F32, products=torch.float16),
    Nce(name="mil_4096x5_f32", videos=4096, candidates=5, width=256, dtype=_F32),
    Nce(name="mil_4096x5_bf16", videos=4096, candidates=5, width=256),
    Nce(name="va_4096_bf16", videos=4096, candidates=1, width=512),
    Nce(name="va_4096_f32", videos=4096, candidates=1, width=512, dtype=_F32),
    Nce(name="va_32768_f32", videos=32768, candidates=1, width=512, dtype=_F32),
    Nce(name="mil_512x5", size="cpu", priority=1, videos=512, candidates=5, width=256),
    Nce(name="mil", size="tiny", priority=1, videos=6, candidates=3, width=16),
)
_MIL = ("mil_32768x5", "mil_32768x5_f32", "mil_32768x5_bf16", "mil_4096x5_f32", "mil_4096x5_bf16")
TARGETS = (
    Target("at least 2x the fastest that fits", _MIL, 2.0, ("*",)),
    # Against those that have the whole matrix in memory.
    Target("at most 1/20 of the memory", _MIL, 20.0, ("*",), but=(f"{OURS}*", SLICES), measure="peak_mib"),
)


def _space(kernel: str, rows: str, cases: tuple[str, ...], *grid: tuple[int, ...]) -> SearchSpace:
    """``grid``: rows that a program keeps, rows a step reads, depth and width of the gradient, warps, stages."""
    return SearchSpace(OP, f"{kernel} {rows}", "CONFIGS", (kernel, rows, ARCH), grid, cases, kernel == "gradient")


_BF16_CASES, _F32_CASES = ("mil_4096x5_bf16",), ("mil_4096x5_f32", "va_4096_f32")
SEARCH_SPACES = (
    _space("forward", "narrow", _BF16_CASES, (64, 128), (32, 64, 128), (0,), (0,), (4, 8), (2, 3, 4)),
    _space("forward", "wide", ("va_4096_bf16",), (64, 128), (32, 64), (0,), (0,), (4, 8), (2, 3)),
    _space("forward", "float32", _F32_CASES, (64, 128), (32, 64, 128), (32, 64), (0,), (4, 8), (1, 2)),
    _space("gradient", "narrow", _BF16_CASES, (64, 128), (32, 64), (0,), (0,), (4, 8), (2, 3, 4)),
    _space("gradient", "wide", ("va_4096_bf16",), (64,), (32, 64), (0,), (0,), (8,), (2, 3, 4)),
    _space("gradient", "float32", _F32_CASES, (32, 64, 128), (32, 64), (32,), (64, 128), (4, 8), (1, 2)),
    SearchSpace(OP, "splits", "PROGRAMS", ARCH, base.PROGRAMS_GRID, ("mil_4096x5_bf16",)),
)


def _launch(queries: int, keys: int, width: int, masked: bool, dtype: torch.dtype, of: str, both: bool) -> None:
    """The forward kernel, or that of the gradient ``of`` queries or keys; ``both``: of the log-sum-exps of both sides,
    as on one rank, else of the queries' alone."""
    from vatt.kernels.nce import triton_launch

    query, key = meta(queries, width, dtype=dtype), meta(keys, width, dtype=dtype)
    valid = meta(keys, dtype=torch.float32) if masked else None
    lse, back = ((x, x) for x in (meta(queries, dtype=torch.float32), meta(keys, dtype=torch.float32)))
    key_lse, result = back if both else None, (0.07, torch.float32)
    if of == "queries":
        triton_launch.gradient(query, key, None, valid, lse, key_lse, *result)
    elif of == "keys":
        triton_launch.gradient(key, query, valid, None, key_lse, lse, *result)
    else:
        triton_launch.lse(query, key, None, valid, 0.07, both)


_FORWARD = {"similarity_lse_forward": base.Expect(base.TENSOR_CORES), "combine_lse": base.Expect()}
_GRADIENT = {"similarity_lse_gradient": base.Expect(base.TENSOR_CORES, wide=0.6)}  # a row has up to five scalars
# "text" and "audio" on one rank; "ranks": the rows of one among 64.
COMPILATIONS = tuple(
    base.Compilation(
        OP,
        f"{name}_{dtype}{of and '_'}{of}",
        partial(_launch, *sizes, getattr(torch, dtype), of, name != "ranks"),
        kernels,
    )
    for name, sizes in {
        "text": (32768, 163840, 256, True),
        "audio": (256, 2048, 512, False),
        "ranks": (512, 163840, 256, True),
    }.items()
    for dtype in ("float32", "bfloat16", "float16")[: 3 if name == "text" else 2]
    for of, kernels in {"": _FORWARD, "queries": _GRADIENT, "keys": _GRADIENT}.items()
)
