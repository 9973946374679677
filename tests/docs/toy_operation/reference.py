"""Squared ReLU in plain PyTorch."""

from __future__ import annotations

from torch import Tensor


def squared_relu(x: Tensor) -> Tensor:
    return x.clamp(min=0).square()
