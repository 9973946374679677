"""ResNet in two dimensions (SimCLR's, v1.5; official modeling/backbones/audio/resnet2d.py): the audio network of MMV.

Shapes: B clips, T Fourier transforms, M mel bins, C channels, P output width (2048).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from vatt.models.config import ResNetConfig
from vatt.models.mmv.layers import Conv, ConvBackbone, ConvUnit, WholeSignal, max_pool

_BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
_WIDTHS = (64, 128, 256, 512)  # of the groups, before the last convolution of a block makes four times as many
_GROWTH = 4


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride), 1x1 to four times the width, plus the shortcut, then ReLU. The first block of a group
    has a convolution in its shortcut. The scale of the last batch norm begins at 0, so a new block is its shortcut."""

    def __init__(self, d_in: int, width: int, stride: int, first: bool, config: ResNetConfig) -> None:
        super().__init__()
        d_out = _GROWTH * width
        self.shortcut = _unit(d_in, d_out, 1, stride, config, relu=False) if first else None
        self.units = nn.Sequential(
            _unit(d_in, width, 1, 1, config),
            _unit(width, width, 3, stride, config),
            _unit(width, d_out, 1, 1, config, relu=False),
        )
        nn.init.zeros_(self.units[2].bn.weight)  # type: ignore[union-attr, arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, M) -> (B, C', T', M')."""
        return F.relu_(self.units(x) + (x if self.shortcut is None else self.shortcut(x)))


class ResNet(ConvBackbone):
    """Reads log-mel spectrograms (B, T, M); time is the height of the picture.

    Convolutions are padded with (kernel - 1) // 2 zeros on both sides, pooling as TensorFlow's SAME.
    """

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.tokens = WholeSignal(2, 0, "audio")
        widths = [int(width * config.width_multiplier) for width in _WIDTHS]
        self.stem = _unit(1, widths[0], 7, 2, config)
        d_in, groups = widths[0], []
        for group, (width, count) in enumerate(zip(widths, _BLOCKS[config.depth], strict=True)):
            blocks = []
            for number in range(count):
                stride = 2 if group and not number else 1
                blocks.append(Bottleneck(d_in, width, stride, not number, config))
                d_in = _GROWTH * width
            groups.append(nn.Sequential(*blocks))
        self.groups = nn.Sequential(*groups)
        self.width = d_in

    def last_map(self, x: Tensor) -> Tensor:
        """(B, T, M) -> (B, P, T', M')."""
        x = x.to(self.stem.conv.weight.dtype)[..., None].movedim(-1, 1)  # a view, and so channels last in memory
        return self.groups(max_pool(self.stem(x), (3, 3), (2, 2)))


def _unit(d_in: int, d_out: int, side: int, stride: int, config: ResNetConfig, relu: bool = True) -> ConvUnit:
    return ConvUnit(Conv(d_in, d_out, (side, side), stride, same=False), config, relu)
