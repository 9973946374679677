"""Inception I3D (Carreira and Zisserman 2017; official modeling/backbones/video/i3d.py): the video network of MMV.

Shapes: B clips, T/H/W time/height/width, C channels, P output width (1024).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vatt.models.config import I3DConfig
from vatt.models.mmv.layers import Conv, ConvBackbone, ConvUnit, WholeSignal, max_pool

Sides = tuple[int, int, int]

# The layers in their order, with the official names. A convolution: (width, side, stride). A pooling: (kernel, stride).
# A mixed block: the widths of its units, by branch.
_CONVOLUTIONS = {"conv3d_1a_7x7": (64, 7, 2), "conv3d_2b_1x1": (64, 1, 1), "conv3d_2c_3x3": (192, 3, 1)}
_POOLS: dict[str, tuple[Sides, Sides]] = {
    "maxpool3d_2a_3x3": ((1, 3, 3), (1, 2, 2)),
    "maxpool3d_3a_3x3": ((1, 3, 3), (1, 2, 2)),
    "maxpool3d_4a_3x3": ((3, 3, 3), (2, 2, 2)),
    "maxpool3d_5a_2x2": ((2, 2, 2), (2, 2, 2)),
}
_MIXED = {
    "mixed_3b": (64, 96, 128, 16, 32, 32),
    "mixed_3c": (128, 128, 192, 32, 96, 64),
    "mixed_4b": (192, 96, 208, 16, 48, 64),
    "mixed_4c": (160, 112, 224, 24, 64, 64),
    "mixed_4d": (128, 128, 256, 24, 64, 64),
    "mixed_4e": (112, 144, 288, 32, 64, 64),
    "mixed_4f": (256, 160, 320, 32, 128, 128),
    "mixed_5b": (256, 160, 320, 32, 128, 128),
    "mixed_5c": (384, 192, 384, 48, 128, 128),
}
LAYERS = (
    *("conv3d_1a_7x7", "maxpool3d_2a_3x3", "conv3d_2b_1x1", "conv3d_2c_3x3", "maxpool3d_3a_3x3"),
    *("mixed_3b", "mixed_3c", "maxpool3d_4a_3x3"),
    *("mixed_4b", "mixed_4c", "mixed_4d", "mixed_4e", "mixed_4f", "maxpool3d_5a_2x2"),
    *("mixed_5b", "mixed_5c"),
)


class MaxPool(nn.Module):
    """Maximum over windows, with SAME padding."""

    def __init__(self, kernel: Sides, stride: Sides) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) -> (B, C, T', H', W'), each axis ceil(size / stride)."""
        return max_pool(x, self.kernel, self.stride)


class Mixed(nn.Module):
    """An Inception block of four branches: 1x1x1; 1x1x1, 3x3x3; 1x1x1, 3x3x3; pooling, 1x1x1. Units have the official
    names: branch and place in it."""

    def __init__(self, d_in: int, widths: tuple[int, ...], config: I3DConfig) -> None:
        super().__init__()
        b0, b1a, b1b, b2a, b2b, b3 = widths
        self.b0_0 = _unit(d_in, b0, 1, 1, config)
        self.b1_0, self.b1_1 = _unit(d_in, b1a, 1, 1, config), _unit(b1a, b1b, 3, 1, config)
        self.b2_0, self.b2_1 = _unit(d_in, b2a, 1, 1, config), _unit(b2a, b2b, 3, 1, config)
        self.b3_1 = _unit(d_in, b3, 1, 1, config)
        self.width = b0 + b1b + b2b + b3

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) -> (B, C', T, H, W)."""
        pooled = max_pool(x, (3, 3, 3), (1, 1, 1))
        return torch.cat([self.b0_0(x), self.b1_1(self.b1_0(x)), self.b2_1(self.b2_0(x)), self.b3_1(pooled)], dim=1)


class I3D(ConvBackbone):
    """Reads (B, T, H, W, 3): uint8 in [0, 255], or floating point in [-1, 1]. Any size: the strides are 8 in time and
    32 in space, and a rest is kept.

    As in the official code there is no dropout, and the pooled feature is the mean of the last map.
    """

    def __init__(self, config: I3DConfig) -> None:
        super().__init__()
        self.tokens = WholeSignal(3, 3, "video")
        self.layers = nn.ModuleDict()
        width = 3
        for name in LAYERS:
            if name in _POOLS:
                self.layers[name] = MaxPool(*_POOLS[name])
            elif name in _CONVOLUTIONS:
                d_out, side, stride = _CONVOLUTIONS[name]
                self.layers[name] = _unit(width, width := d_out // config.width_divisor, side, stride, config)
            else:
                block = Mixed(width, tuple(part // config.width_divisor for part in _MIXED[name]), config)
                self.layers[name], width = block, block.width
        self.width = width

    def last_map(self, x: Tensor) -> Tensor:
        """(B, T, H, W, 3) -> (B, P, T', H', W')."""
        dtype = next(self.parameters()).dtype
        if x.dtype == torch.uint8:
            x = x.to(torch.promote_types(dtype, torch.float32)) / 127.5 - 1
        x = x.to(dtype).movedim(-1, 1)  # a view, and so channels last in memory
        for layer in self.layers.values():
            x = layer(x)
        return x


def _unit(d_in: int, d_out: int, side: int, stride: int, config: I3DConfig) -> ConvUnit:
    return ConvUnit(Conv(d_in, d_out, (side,) * 3, stride), config, unbiased=True)
