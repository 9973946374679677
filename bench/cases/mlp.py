"""The perceptron of a layer: two products with an exact GELU between them.

No other package has it: Liger's perceptrons are gated, and its GELU is the tanh approximation.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from torch import Tensor

from bench.cases import base
from bench.cases.base import ARCH, OURS, Call, Case, Compilation, Cost, Draw, Expect, SearchSpace, meta
from vatt.kernels import mlp

OP = "mlp"
GEMM = "triton_gemm"


@dataclass(frozen=True, kw_only=True)
class Mlp(Case):
    """``rows`` of ``width``; the hidden layer is four times as wide."""

    op = OP
    backends = (OURS, GEMM)
    rows: int
    width: int

    def inputs(self, draw: Draw) -> dict[str, Tensor]:
        R, D, M = self.rows, self.width, 4 * self.width
        return {
            "x": draw.leaf(R, D),
            "weight_in": draw.leaf(M, D, std=D**-0.5),
            "bias_in": draw.leaf(M, std=0.2),
            "weight_out": draw.leaf(D, M, std=M**-0.5),
            "bias_out": draw.leaf(D, std=0.2),
        }

    def bind(self, inputs: dict[str, Tensor], backend: str, dropout: float, seed: Tensor | None = None) -> Call:
        return lambda: (mlp(*inputs.values(), dropout_p=dropout, seed=seed, backend=backend),)

    def passes(self, dropout: float) -> tuple[Cost, Cost]:
        R, D, M, s = self.rows, self.width, 4 * self.width, self.dtype.itemsize
        rows, weights, vectors = R * D * s, 2 * D * M * s, (D + M) * s
        flops = 4 * R * D * M
        return Cost(flops, 2 * rows + weights + vectors), Cost(2 * flops, 3 * rows + 2 * weights + 2 * vectors)


CASES = (
    Mlp(name="video_768", priority=1, rows=64 * 785, width=768),
    Mlp(name="video_1024", rows=64 * 785, width=1024),
    Mlp(name="text_512", rows=320 * 17, width=512),
    Mlp(name="video_768", size="cpu", priority=1, rows=785, width=768),
    Mlp(name="video", size="tiny", priority=1, rows=7, width=16),
)
_ELEMENTS_GRID = ((1, 2, 4, 8, 16), (256, 512, 1024), (0,), (4, 8), (1,))
SEARCH_SPACES = (
    SearchSpace(OP, "elements", "ELEMENTWISE_CONFIG", None, _ELEMENTS_GRID, ("video_768",)),
    SearchSpace(OP, "blocks", "BLOCKS", ARCH, ((1, 2, 4, 8, 12),), ("video_768",), backward=False),
    SearchSpace(OP, "programs", "PROGRAMS", ARCH, base.PROGRAMS_GRID, ("video_768", "video_1024")),
    SearchSpace(
        OP, "product", "PRODUCT_CONFIGS", ARCH, base.PRODUCT_GRID, ("video_768",), backward=False, backend=GEMM
    ),
)


def _launch(width: int) -> None:
    from vatt.kernels.mlp import triton_launch

    rows, inner, seed, p = 64 * 785, 4 * width, base.META_SEED, 0.1
    x, bias = meta(rows, inner), meta(inner)
    triton_launch.forward(x, bias, seed, p)
    triton_launch.backward(x, x, bias, seed, p)
    triton_launch.linear_forward(meta(rows, width), meta(inner, width), bias, seed, p)


_EXPECT = {
    "bias_gelu_forward": Expect(),
    "bias_gelu_backward": Expect(),
    "linear_gelu_forward": Expect(base.TENSOR_CORES),
}
COMPILATIONS = tuple(Compilation(OP, f"video_{width}", partial(_launch, width), _EXPECT) for width in (768, 1024))
