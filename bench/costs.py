"""Operations and bytes that a call cannot do without.

Convention: 2 operations a multiply-add, and only matrix products are counted. Bytes: each pass (forward, backward)
reads each of its inputs once and writes each of its outputs once; what a pass could keep on the chip is not counted
(the hidden layer of the MLP, the scores). Scores that are too large to keep are computed again once in the backward
pass, as flash attention counts it: 5 products there against 2 in the forward pass, and for the contrastive loss 3
against 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bench.shapes import AttentionShape, BlockShape, MlpShape, NceShape, NormShape, PatchShape, Shape


@dataclass(frozen=True)
class Cost:
    """Operations and bytes of device memory."""

    flops: float
    bytes: float

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.flops + other.flops, self.bytes + other.bytes)


def cost(shape: Shape, backward: bool, dropout: float = 0.0) -> Cost:
    """Of the forward pass or, with ``backward``, of both passes."""
    forward, back = _COSTS[type(shape)](shape, shape.dtype.itemsize, dropout)
    return forward + back if backward else forward


def cost_of(provider: str, shape: Shape, backward: bool, dropout: float = 0.0) -> Cost:
    """`cost`, but of open_clip's loss, which is another: it makes one matrix of logits and keeps it, so one product
    there and two back."""
    needed = cost(shape, backward, dropout)
    if isinstance(shape, NceShape) and "open_clip" in provider:
        product = 2 * shape.videos**2 * shape.candidates * shape.width
        return Cost((3 if backward else 1) * product, needed.bytes)
    return needed


def _patch(shape: PatchShape, s: int, dropout: float) -> tuple[Cost, Cost]:
    """Only kept patches are read, and the backward pass has no gradient of the input."""
    B, K, D = shape.signal[0], shape.kept, shape.width
    P = math.prod(shape.patch) * (3 if shape.pixels else 1)
    N = math.prod(size // side for size, side in zip(shape.signal[1:], shape.patch, strict=False))
    flops = 2 * B * K * P * D
    signal = B * K * P * (1 if shape.pixels else 4)  # a waveform stays float32, whatever the model's type
    tokens, weight, index = B * (1 + K) * D * s, D * P * s, 8 * K
    forward = Cost(flops, signal + index + weight + (K + 2) * D * s + tokens)
    return forward, Cost(flops, signal + index + tokens + weight + (N + 2) * D * s)


def _attention(shape: AttentionShape, s: int, dropout: float) -> tuple[Cost, Cost]:
    B, N, inner = shape.batch, shape.length, shape.heads * shape.head_dim
    product, rows = 2 * B * N * N * inner, B * N * inner * s
    bias = shape.heads * N * N * s if shape.text else 0
    mask = B * N if shape.text else 0
    return Cost(2 * product, 4 * rows + bias + mask), Cost(5 * product, 8 * rows + 2 * bias + mask)


def _norm(shape: NormShape, s: int, dropout: float) -> tuple[Cost, Cost]:
    """x, residual -> sum, normed; both gradients, sum -> gradients of x and residual, equal without dropout."""
    rows, vectors = shape.rows * shape.width * s, (1 + shape.centred) * shape.width * s
    return Cost(0, 4 * rows + vectors), Cost(0, (5 if dropout else 4) * rows + 2 * vectors)


def _mlp(shape: MlpShape, s: int, dropout: float) -> tuple[Cost, Cost]:
    R, D, M = shape.rows, shape.width, shape.inner
    rows, weights, vectors = R * D * s, 2 * D * M * s, (D + M) * s
    flops = 4 * R * D * M
    return Cost(flops, 2 * rows + weights + vectors), Cost(2 * flops, 3 * rows + 2 * weights + 2 * vectors)


def _block(shape: BlockShape, s: int, dropout: float) -> tuple[Cost, Cost]:
    """Stream and update go in and come out; between them nothing needs to leave the chip but weights."""
    R, D = shape.batch * shape.length, shape.width
    dense = 2 * R * (4 * D * D + 8 * D * D)
    scores = 2 * shape.batch * shape.length**2 * D
    rows, weights = R * D * s, 12 * D * D * s
    forward = Cost(dense + 2 * scores, 4 * rows + weights)
    return forward, Cost(2 * dense + 5 * scores, 6 * rows + 2 * weights)


def _nce(shape: NceShape, s: int, dropout: float) -> tuple[Cost, Cost]:
    """Two products, videos against all texts and texts against all videos. With one rank they hold the same numbers;
    the operation is defined for local and gathered rows, where they do not."""
    V, C, D = shape.videos, shape.candidates, shape.width
    product, rows = 2 * V * V * C * D, 2 * (V + V * C) * D * s
    return Cost(2 * product, rows + V * s), Cost(6 * product, 2 * rows + V * s)


_COSTS: dict[type[Shape], Callable[[Any, int, float], tuple[Cost, Cost]]] = {
    PatchShape: _patch,
    AttentionShape: _attention,
    NormShape: _norm,
    MlpShape: _mlp,
    BlockShape: _block,
    NceShape: _nce,
}
