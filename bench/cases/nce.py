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
OPEN_CLIP, SLICES, CLIP = "open_clip", "torch in slices", "open_clip package"


@dataclass(frozen=True, kw_only=True)
class Nce(base.Case):
    """``videos`` against ``candidates`` texts (or one sound) each, on one rank: local rows are all rows."""

    op = OP
    outputs = ("loss",)
    has_dropout = False
    videos: int
    candidates: int
    width: int
    temperature: float = 0.07

    def inputs(self, draw: Draw) -> dict[str, Tensor]:
        """Texts lie near their video, so that the loss is neither chance nor zero. Local and gathered rows are leaves
        of their own, as they are on several ranks."""
        V, C, D = self.videos, self.candidates, self.width
        video = draw.raw(V, 1, D)
        rows = {"first": F.normalize(video, dim=-1), "second": F.normalize(0.3 * video + draw.raw(V, C, D), dim=-1)}
        names = {f"{name}_{part}": x for name, x in rows.items() for part in ("local", "all")}
        return {name: x.to(draw.dtype).clone().requires_grad_() for name, x in names.items()}

    def bind(self, inputs: dict[str, Tensor], backend: str, dropout: float, items: slice = slice(None)) -> Call:
        def call() -> tuple[Tensor, ...]:
            pair = (Rows(inputs[f"{name}_local"][items], inputs[f"{name}_all"]) for name in ("first", "second"))
            return (nce(*pair, temperature=self.temperature, backend=backend),)

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
        """Two products, videos against all texts and texts against all videos. With one rank they hold the same
        numbers; the operation is defined for local and gathered rows, where they do not."""
        V, C, D, s = self.videos, self.candidates, self.width, self.dtype.itemsize
        product, rows = 2 * V * V * C * D, 2 * (V + V * C) * D * s
        return Cost(2 * product, rows + V * s), Cost(6 * product, 2 * rows + V * s)

    def cost(self, backward: bool, dropout: float = 0.0, provider: str = OURS) -> Cost:
        """open_clip's loss makes one matrix of logits and keeps it: one product there and two back."""
        needed = super().cost(backward, dropout)
        if OPEN_CLIP not in provider:
            return needed
        return Cost((3 if backward else 1) * 2 * self.videos**2 * self.candidates * self.width, needed.bytes)

    def baselines(self) -> dict[str, Baseline]:
        found = super().baselines()
        found |= {OPEN_CLIP: Baseline(self._open_clip, same=False), SLICES: Baseline(self._in_slices)}
        found[CLIP] = Baseline(self._package, same=False)
        return found | {f"{base.COMPILE} of open_clip": base.compiled(self._open_clip, same=False)}

    def _open_clip(self, problem: Problem, dropout: float) -> tuple[Call, Leaves]:
        leaves = _gathered(problem)

        def call() -> tuple[Tensor, ...]:
            video, text = (x.flatten(0, 1) for x in leaves.values())
            return (clip_style(video, text, self.temperature),)

        return call, leaves

    def _package(self, problem: Problem, dropout: float) -> tuple[Call, Leaves]:
        """open_clip's own ClipLoss, the mean over the candidates, since it takes one text a video."""
        if dropout > 0:
            raise ValueError(f"open_clip's loss has no dropout, {dropout:g} was asked for")
        loss, leaves = need("open_clip.loss", "ClipLoss")(), _gathered(problem)

        def call() -> tuple[Tensor, ...]:
            video, texts = leaves["first_all"].squeeze(1), leaves["second_all"].unbind(1)
            return (torch.stack([loss(video, text, 1 / self.temperature) for text in texts]).mean(),)

        return call, leaves

    def _in_slices(self, problem: Problem, dropout: float) -> tuple[Call, Leaves]:
        """Plain PyTorch where the whole matrix does not fit: slices of the items, computed again in the backward
        pass."""
        calls = [problem.call(base.TORCH, items=items) for items in self.slices]
        return lambda: (torch.cat([checkpoint(call, use_reentrant=False)[0] for call in calls]),), problem.leaves


def _gathered(problem: Problem) -> Leaves:
    return {name: problem.leaves[name].detach().clone().requires_grad_() for name in ("first_all", "second_all")}


def clip_style(video: Tensor, text: Tensor, temperature: float) -> Tensor:
    """The loss of CLIP as open_clip writes it, of unit rows (V, D) and (V * C, D): a cross-entropy each way. Of several
    texts a video the first is the positive, and no positive counts twice."""
    # The temperature divides the rows, not the logits, which saves a matrix.
    logits = (video / temperature) @ text.T
    texts, C = torch.arange(len(text), device=text.device), len(text) // len(video)
    return (F.cross_entropy(logits, texts[::C]) + F.cross_entropy(logits.T, texts // C)) / 2


# The loss casts its rows to float32 (vatt/objectives/contrastive.py), so float32 is what training runs; bfloat16 is
# what it could run.
_F32 = torch.float32
CASES = (
    Nce(name="mil_32768x5_f32", priority=1, videos=32768, candidates=5, width=256, dtype=_F32),
    Nce(name="mil_32768x5_bf16", priority=1, videos=32768, candidates=5, width=256),
    Nce(name="mil_4096x5_f32", videos=4096, candidates=5, width=256, dtype=_F32),
    Nce(name="mil_4096x5_bf16", videos=4096, candidates=5, width=256),
    Nce(name="va_4096_f32", videos=4096, candidates=1, width=512, dtype=_F32),
    Nce(name="va_32768_f32", videos=32768, candidates=1, width=512, dtype=_F32),
    Nce(name="mil_512x5", size="cpu", priority=1, videos=512, candidates=5, width=256),
    Nce(name="mil", size="tiny", priority=1, videos=6, candidates=3, width=16),
)
_MIL = ("mil_32768x5_f32", "mil_32768x5_bf16", "mil_4096x5_f32", "mil_4096x5_bf16")
TARGETS = (
    Target("at least 2x the fastest that fits", _MIL, 2.0, ("*",)),
    # Against those that have the whole matrix in memory.
    Target("at most 1/20 of the memory", _MIL, 20.0, ("*",), but=(f"{OURS}*", SLICES), measure="peak_mib"),
)


def _space(kernel: str, float32: bool, cases: tuple[str, ...], *grid: tuple[int, ...]) -> SearchSpace:
    """``grid``: rows that a program keeps, rows a step reads, depth, width of the gradient, warps, stages."""
    name, key = f"{kernel} {'f32' if float32 else 'bf16'}", (kernel, float32, ARCH)
    return SearchSpace(OP, name, "CONFIGS", key, grid, cases, backward=kernel == "gradient")


_BF16_CASES, _F32_CASES = ("mil_4096x5_bf16",), ("mil_4096x5_f32", "va_4096_f32")
SEARCH_SPACES = (
    _space("forward", False, _BF16_CASES, (64, 128), (64, 128, 256), (32, 64), (0,), (4, 8), (2, 3, 4)),
    _space("forward", True, _F32_CASES, (64, 128), (32, 64, 128), (32, 64), (0,), (4, 8), (1, 2)),
    _space("gradient", False, _BF16_CASES, (64, 128), (32, 64), (32, 64), (128, 256), (4, 8), (1, 2)),
    _space("gradient", True, _F32_CASES, (32, 64, 128), (32, 64), (32,), (64, 128), (4, 8), (1, 2)),
    SearchSpace(OP, "splits", "PROGRAMS", ARCH, base.PROGRAMS_GRID, ("mil_4096x5_f32",)),
)


def _launch(queries: int, keys: int, width: int, masked: bool, dtype: torch.dtype, of: str) -> None:
    """The forward kernel, or that of the gradient ``of`` queries or keys."""
    from vatt.kernels.nce import triton_launch

    rows = meta(queries, width, dtype=dtype), meta(keys, width, dtype=dtype)
    mask, lse = meta(keys, dtype=torch.uint8) if masked else None, meta(queries, dtype=torch.float32)
    if of:
        own, other = rows if of == "queries" else reversed(rows)
        triton_launch.gradient(own, other, mask, lse, lse, 0.07, of == "queries")
    else:
        triton_launch.forward(*rows, mask, 0.07)


# Single precision is what the loss runs in: the embeddings are normalised in it.
COMPILATIONS = tuple(
    base.Compilation(
        OP,
        f"{name}_{dtype}{of and '_'}{of}",
        partial(_launch, *sizes, getattr(torch, dtype), of),
        {f"similarity_lse_{kernel}": base.Expect(base.TENSOR_CORES)},
    )
    for name, sizes in {"text": (32768, 163840, 256, True), "audio": (256, 2048, 512, False)}.items()
    for dtype in ("float32", "bfloat16")
    for of, kernel in {"": "forward", "queries": "gradient", "keys": "gradient"}.items()
)
