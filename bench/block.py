"""One layer of the encoder (`vatt.models.transformer.EncoderLayer`) as a call of leaves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from bench.shapes import BlockShape
from vatt.models.config import TransformerConfig
from vatt.models.transformer import EncoderLayer


def _layer(shape: BlockShape, backend: str, dropout: float) -> EncoderLayer:
    D, H = shape.width, shape.heads
    config = TransformerConfig(d_model=D, d_kv=D // H, d_ff=4 * D, num_heads=H, num_layers=1, dropout_rate=dropout)
    with torch.device("meta"):
        return EncoderLayer(config, backend)


def parameters(shape: BlockShape) -> dict[str, tuple[tuple[int, ...], dict[str, Any]]]:
    """Names and sizes of the parameters, and how to draw them: like a trained layer, so biases are not zeros."""
    found = {}
    for name, parameter in _layer(shape, "torch", 0.0).named_parameters():
        scale = "norm.weight" in name
        std = parameter.shape[1] ** -0.5 if parameter.ndim == 2 else 0.1
        found[name] = tuple(parameter.shape), dict(std=std, mean=1.0 if scale else 0.0)
    return found


def bound(
    shape: BlockShape, leaves: Mapping[str, Tensor], backend: str, dropout: float
) -> Callable[[], tuple[Tensor, ...]]:
    """The layer in training mode with ``leaves`` as its parameters. ``backend`` may be "X+Y": Y for the attention."""
    rest, _, attention = backend.partition("+")
    layer = _layer(shape, rest, dropout)
    if attention:
        layer.attention.backend = attention
    for name, _ in list(layer.named_parameters()):
        owner, _, last = name.rpartition(".")
        # The leaf itself, not a copy of it, so that the gradients are asked of the leaf.
        layer.get_submodule(owner)._parameters[last] = leaves[name]  # type: ignore[assignment]
    layer.train()

    def call() -> tuple[Tensor, ...]:
        stream, update, _ = layer(leaves["stream"], leaves["update"])
        assert update is not None
        return stream, update

    return call
