"""Residual sum and layer norm, or RMS norm; beside Liger-Kernel's."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from bench.baselines import need
from bench.cases import base
from bench.cases.base import Baseline, Call, Case, Compilation, Cost, Draw, Expect, Leaves, Problem, SearchSpace, meta
from vatt.kernels import layer_norm, rms_norm

OP = "norm"
EPSILON = 1e-6
LIGER, LIGER_SUM = "liger", "liger, fused sum"
_LLAMA = (EPSILON, 0.0, "llama", False)  # no offset of the scale, statistics in float32, not in place: see `_liger`


@dataclass(frozen=True, kw_only=True)
class Norm(Case):
    """``rows`` of ``width``; a layer norm if ``centred``, else an RMS norm."""

    op = OP
    outputs = ("total", "normed")
    rows: int
    width: int
    centred: bool = True

    def inputs(self, draw: Draw) -> dict[str, Tensor]:
        R, D = self.rows, self.width
        x, residual = draw.leaf(R, D), draw.leaf(R, D, mean=0.2)
        found = {"x": x, "residual": residual, "weight": draw.leaf(D, std=0.2, mean=1.0)}
        return found | ({"bias": draw.leaf(D, std=0.2)} if self.centred else {})

    def bind(self, inputs: dict[str, Tensor], backend: str, dropout: float, seed: Tensor | None = None) -> Call:
        options: dict[str, Any] = dict(residual=inputs["residual"], dropout_p=dropout, seed=seed, backend=backend)
        if self.centred:
            return lambda: layer_norm(inputs["x"], inputs["weight"], inputs["bias"], **options)  # type: ignore
        return lambda: rms_norm(inputs["x"], inputs["weight"], **options)  # type: ignore

    def passes(self, dropout: float) -> tuple[Cost, Cost]:
        """x, residual -> sum, normed; both gradients, sum -> gradients of x and residual, equal without dropout."""
        s = self.dtype.itemsize
        rows, vectors = self.rows * self.width * s, (1 + self.centred) * self.width * s
        return Cost(0, 4 * rows + vectors), Cost(0, (5 if dropout else 4) * rows + 2 * vectors)

    def baselines(self) -> dict[str, Baseline]:
        found = super().baselines() | {LIGER: Baseline(_liger, "cuda")}
        # Liger fuses the residual sum with its RMS norm only.
        return found if self.centred else found | {LIGER_SUM: Baseline(_liger_sum, "cuda")}


def _liger(problem: Problem, dropout: float) -> tuple[Call, Leaves]:
    """Liger's norm of the sum; sum and dropout are PyTorch's."""
    leaves = problem.leaves
    rest: tuple[Any, ...]
    if "bias" in leaves:
        function, rest = need("liger_kernel.ops.layer_norm", "LigerLayerNormFunction"), (leaves["bias"], EPSILON)
    else:
        # Not in place: that writes the gradient over the one that came in, which the caller uses again.
        function, rest = need("liger_kernel.ops.rms_norm", "LigerRMSNormFunction"), _LLAMA

    def call() -> tuple[Tensor, ...]:
        total = F.dropout(leaves["x"], dropout) + leaves["residual"]
        return total, function.apply(total, leaves["weight"], *rest)

    return call, leaves


def _liger_sum(problem: Problem, dropout: float) -> tuple[Call, Leaves]:
    """Liger's sum and RMS norm in one kernel; dropout is PyTorch's."""
    leaves = problem.leaves
    function = need("liger_kernel.ops.fused_add_rms_norm", "LigerFusedAddRMSNormFunction")

    def call() -> tuple[Tensor, ...]:
        x = F.dropout(leaves["x"], dropout)
        normed, total = function.apply(x, leaves["residual"], leaves["weight"], *_LLAMA)
        return total, normed

    return call, leaves


CASES = (
    Norm(name="layer_768", priority=1, rows=64 * 785, width=768),
    Norm(name="layer_1024", rows=64 * 785, width=1024),
    Norm(name="layer_512", rows=64 * 785, width=512),
    Norm(name="rms_512", rows=320 * 17, width=512, centred=False),
    Norm(name="layer_768", size="cpu", priority=1, rows=4 * 785, width=768),
    Norm(name="layer", size="tiny", priority=1, rows=7, width=24),
    Norm(name="rms", size="tiny", rows=5, width=16, centred=False),
)
SEARCH_SPACES = (
    SearchSpace(
        OP, "forward", "forward_config", None, ((1, 2, 4, 8), (2, 4, 8), (0,), (1,)), ("layer_768",), backward=False
    ),
    SearchSpace(
        OP, "backward", "backward_config", None, ((1, 2, 4), (2, 4, 8), (264, 528, 1056), (1, 2, 3)), ("layer_768",)
    ),
)


def _launch(case: Norm) -> None:
    from vatt.kernels.norm import triton_launch

    x, weight, seed = meta(case.rows, case.width), meta(case.width), base.META_SEED
    bias = weight if case.centred else None
    total, normed, mean, rstd = triton_launch.forward(x, x, weight, bias, seed, EPSILON, 0.1)
    triton_launch.backward(total, normed, total, weight, mean if case.centred else None, rstd, seed, 0.1)


_EXPECT = {"norm_forward": Expect(), "norm_backward": Expect()}
COMPILATIONS = tuple(
    Compilation(OP, case.name, partial(_launch, case), _EXPECT) for case in CASES if case.size == "gpu"
)
