"""Squared ReLU, for the benchmarks: inputs, call, costs, and what its compiled kernels must have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from bench.cases.base import Call, Case, Compilation, Cost, Draw, Expect, Leaves, SearchSpace, Target, meta
from vatt.kernels import squared_relu

OP = "squared_relu"


@dataclass(frozen=True, kw_only=True)
class SquaredRelu(Case):
    """``rows`` of ``width``."""

    op: ClassVar[str] = OP
    has_dropout: ClassVar[bool] = False
    rows: int
    width: int

    def inputs(self, draw: Draw) -> tuple[Leaves, dict[str, Any]]:
        return {"x": draw.leaf(self.rows, self.width)}, {}

    def bind(self, leaves: Leaves, fixed: dict[str, Any], backend: str, dropout: float) -> Call:
        return lambda: (squared_relu(leaves["x"], backend=backend),)

    def passes(self, dropout: float) -> tuple[Cost, Cost]:
        """x -> out; x and the gradient of out -> that of x."""
        rows = self.rows * self.width * self.dtype.itemsize
        return Cost(0, 2 * rows), Cost(0, 3 * rows)


_F32: dict[str, Any] = dict(dtype=torch.float32)
CASES: dict[str, tuple[Case, ...]] = {
    "gpu": (SquaredRelu(name="video", rows=64 * 785, width=3072),),
    "cpu": (SquaredRelu(name="video", rows=785, width=3072, **_F32),),
    "tiny": (SquaredRelu(name="video", rows=7, width=24, tiny=True, **_F32),),
}
TARGETS: tuple[Target, ...] = ()
SEARCH_SPACES: tuple[SearchSpace, ...] = ()


def _compile() -> None:
    from vatt.kernels.squared_relu import triton_launch

    x = meta(64 * 785, 3072)
    triton_launch.backward(triton_launch.forward(x), x)


COMPILATIONS = (
    Compilation(OP, "video", _compile, {"squared_relu_forward": Expect(), "squared_relu_backward": Expect()}),
)
