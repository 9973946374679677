"""Squared ReLU, for the benchmarks: inputs, call, costs, and what its compiled kernels must have."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from bench.cases.base import Call, Case, Compilation, Cost, Draw, Expect, meta
from vatt.kernels import squared_relu

OP = "squared_relu"


@dataclass(frozen=True, kw_only=True)
class SquaredRelu(Case):
    """``rows`` of ``width``."""

    op = OP
    has_dropout = False
    rows: int
    width: int

    def inputs(self, draw: Draw) -> dict[str, Tensor]:
        return {"x": draw.leaf(self.rows, self.width)}

    def bind(self, inputs: dict[str, Tensor], backend: str, dropout: float) -> Call:
        return lambda: (squared_relu(inputs["x"], backend=backend),)

    def passes(self, dropout: float) -> tuple[Cost, Cost]:
        """x -> out; x and the gradient of out -> that of x."""
        rows = self.rows * self.width * self.dtype.itemsize
        return Cost(0, 2 * rows), Cost(0, 3 * rows)


CASES = (
    SquaredRelu(name="video", rows=64 * 785, width=3072),
    SquaredRelu(name="video", size="cpu", rows=785, width=3072),
    SquaredRelu(name="video", size="tiny", rows=7, width=24),
)


def _launch() -> None:
    from vatt.kernels.squared_relu import triton_launch

    x = meta(64 * 785, 3072)
    triton_launch.backward(triton_launch.forward(x), x)


COMPILATIONS = (
    Compilation(OP, "video", _launch, {"squared_relu_forward": Expect(), "squared_relu_backward": Expect()}),
)
