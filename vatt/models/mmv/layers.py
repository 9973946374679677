"""What both networks are made of: convolutions and pooling with TensorFlow's padding, and batch norm over all ranks.

Shapes: B clips, C channels, and the axes of a signal behind them (... stands for T, H, W or T, F).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vatt.distributed import gather_rows, sum_over_ranks, world_size
from vatt.models.config import BatchNormConfig
from vatt.models.heads import BatchNorm
from vatt.models.layers import glorot_uniform
from vatt.models.tokens import ItemDraws

NO_CHECKPOINTING = (
    "activation_checkpointing: cannot be used with convolutional networks, whose batch norms would see a batch twice"
)

_CONVOLUTIONS: dict[int, Any] = {2: F.conv2d, 3: F.conv3d}
_POOLS: dict[int, Any] = {2: F.max_pool2d, 3: F.max_pool3d}


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's SAME padding of one axis, in front and behind: the output has ceil(size / stride) places, and of an
    odd number of zeros the larger half is behind. It depends on the size, unlike PyTorch's."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def max_pool(x: Tensor, kernel: Sequence[int], stride: Sequence[int]) -> Tensor:
    """Maximum over windows with SAME padding, which never wins; of tied places one gets the gradient.

    The places behind that SAME adds to those in front are the rest that PyTorch's ``ceil_mode`` keeps.
    """
    front = [same_padding(*axis)[0] for axis in zip(x.shape[2:], kernel, stride, strict=True)]
    return _POOLS[len(kernel)](x, tuple(kernel), tuple(stride), tuple(front), ceil_mode=True)


class Conv(nn.Module):
    """A convolution without bias, Glorot-uniform. ``same``: TensorFlow's SAME padding; else (kernel - 1) // 2 zeros on
    both sides, whatever the stride."""

    def __init__(self, d_in: int, d_out: int, kernel: Sequence[int], stride: int = 1, same: bool = True) -> None:
        super().__init__()
        volume = math.prod(kernel)
        self.weight = nn.Parameter(glorot_uniform(torch.empty(d_out, d_in, *kernel), volume * d_in, volume * d_out))
        self.kernel, self.stride, self.same = tuple(kernel), stride, same
        self._is_product = volume == stride == 1 and len(self.kernel) == 3

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, ...) -> (B, C_out, ...)."""
        if self._is_product and x.device.type == "cpu":  # where PyTorch's conv3d would give up channels last
            return F.linear(x.movedim(1, -1), self.weight.flatten(1)).movedim(-1, 1)
        pads = [(side // 2, side // 2) for side in self.kernel]  # sides are odd
        if self.same:
            pads = [same_padding(size, side, self.stride) for size, side in zip(x.shape[2:], self.kernel, strict=True)]
        if any(front != behind for front, behind in pads):
            x = F.pad(x, [count for pair in reversed(pads) for count in pair])
            pads = [(0, 0)] * len(pads)
        padding = tuple(front for front, _ in pads)
        return _CONVOLUTIONS[len(self.kernel)](x, self.weight, None, self.stride, padding)


class ConvBatchNorm(BatchNorm):
    """Batch norm of (B, C, ...): statistics of each channel over clips and places, of all ranks if the configuration
    says so.

    What `BatchNorm` says holds here, too. ``unbiased``: without statistics over all ranks, the running variance takes
    n / (n - 1) of the batch's, as Keras' fused kernel does for the 5 axes of a video.
    """

    def __init__(self, channels: int, config: BatchNormConfig, unbiased: bool = False) -> None:
        super().__init__(channels, config.bn_epsilon, config.bn_momentum, config.sync_bn)
        self.unbiased = unbiased and not config.sync_bn

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ...) -> the same, of the type and the memory format of ``x``; statistics in float32 or wider."""
        dtype = torch.promote_types(x.dtype, torch.float32)
        weight, bias = self.weight.to(dtype), self.bias.to(dtype)
        if not self.training:
            return self._of_running(x, dtype)
        if self.sync and world_size() > 1 and not x.is_meta:
            y, mean, var = _OverRanks.apply(x, weight, bias, self.eps)
        else:
            y, mean, rate = torch.native_batch_norm(x, weight, bias, None, None, True, 0.0, self.eps)
            var = (rate.detach() ** -2 - self.eps).clamp(min=0)
        if self.unbiased:
            count = x.numel() // x.shape[1]
            var = var * (count / max(count - 1, 1))
        self._remember(mean.detach(), var)
        return y

    def _of_running(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """By the running statistics. Scale and shift of a channel are the same at all places, so their rounding is not
        averaged away as that of the places is: they are made in float64."""
        scale = torch.rsqrt(self.running_var.double() + self.eps) * self.weight.double()
        shift = self.bias.double() - self.running_mean.double() * scale
        zeros, ones = torch.zeros_like(scale, dtype=dtype), torch.ones_like(scale, dtype=dtype)
        return F.batch_norm(x, zeros, ones, scale.to(dtype), shift.to(dtype), False, 0.0, 0.0)


class _OverRanks(torch.autograd.Function):
    """Batch norm with the statistics of all ranks, in one gather forwards and one sum backwards."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        var, mean = torch.var_mean(x.to(weight.dtype), _but_channels(x), correction=0)
        count = mean.new_full((1,), x.numel() // x.shape[1])
        by_rank = gather_rows(torch.cat([mean, var, count])[None])
        means, variances, counts = by_rank.split([len(mean), len(mean), 1], dim=1)
        shares = counts / counts.sum()
        mean = (shares * means).sum(0)
        var = (shares * (variances + (means - mean).square())).sum(0)
        ctx.save_for_backward(x, weight, mean, torch.rsqrt(var + eps), counts.sum())
        ctx.mark_non_differentiable(mean, var)
        return F.batch_norm(x, mean, var, weight, bias, False, 0.0, eps), mean, var

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight, mean, rate, count = ctx.saved_tensors
        shape, axes = (1, -1, *[1] * (x.ndim - 2)), _but_channels(x)
        grad = grads[0].to(weight.dtype)
        normed = (x.to(weight.dtype) - mean.view(shape)) * rate.view(shape)
        of_bias, of_weight = grad.sum(axes), (grad * normed).sum(axes)
        mean_grad, mean_product = (sum_over_ranks(torch.cat([of_bias, of_weight])) / count).chunk(2)
        of_x = (grad - mean_grad.view(shape) - normed * mean_product.view(shape)) * (weight * rate).view(shape)
        return of_x.to(x.dtype), of_weight, of_bias, None


def _but_channels(x: Tensor) -> tuple[int, ...]:
    return (0, *range(2, x.ndim))


class ConvUnit(nn.Module):
    """Convolution, batch norm, and a ReLU unless ``relu`` is false."""

    def __init__(self, conv: Conv, config: BatchNormConfig, relu: bool = True, unbiased: bool = False) -> None:
        super().__init__()
        self.conv, self.relu = conv, relu
        self.bn = ConvBatchNorm(conv.weight.shape[0], config, unbiased)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, ...) -> (B, C_out, ...)."""
        x = self.bn(self.conv(x))
        return F.relu_(x) if self.relu else x


class WholeSignal:
    """What a convolutional backbone has in place of `vatt.models.tokens.PatchTokens`: it reads all of a signal, so
    there are no patches to choose from."""

    patch: tuple[int, ...] = ()
    backend = "auto"

    def __init__(self, axes: int, channels: int, name: str) -> None:
        """``axes`` of a signal, without batch and channels; ``channels`` is 0 where there is no such axis."""
        self.axes, self.channels, self.name = axes, channels, name

    def grid(self, x: Tensor) -> tuple[int, ...]:
        """Places along each axis. Raises ValueError: the signal does not fit; the message names the input."""
        wanted = 1 + self.axes + (self.channels > 0)
        if x.ndim != wanted or (self.channels and x.shape[-1] != self.channels) or 0 in x.shape:
            last = f" with {self.channels} channels last" if self.channels else ""
            raise ValueError(f"{self.name}: expected {wanted} dimensions{last}, got {tuple(x.shape)}")
        if not (x.is_floating_point() or (x.dtype == torch.uint8 and self.channels)):
            raise ValueError(f"{self.name}: expected {'uint8 or ' * bool(self.channels)}floating point, got {x.dtype}")
        return tuple(x.shape[1 : 1 + self.axes])

    def gathered(self, x: Tensor) -> bool:
        """No patches are gathered."""
        return False

    def draw(self, x: Tensor, generator: torch.Generator | None = None, items: ItemDraws | None = None) -> None:
        """Nothing is dropped."""


class ConvBackbone(nn.Module):
    """The interface that `I3D` and `ResNet` share with `vatt.models.backbones.Backbone`."""

    tokens: WholeSignal
    width: int

    def train(self, mode: bool = True) -> Self:
        """A frozen network keeps its running statistics, and is normalised by them, in training too."""
        return super().train(mode and any(p.requires_grad for p in self.parameters()))

    def forward(
        self, x: Tensor, *, generator: torch.Generator | None = None, kept: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Features of a batch.

        Args:
            x: the signal, see the subclass.
            generator: not used; there is no DropToken.
            kept: must be None.

        Returns:
            "features_pooled" (B, P): the mean of the last map; "features" (B, ..., P): the map.

        Raises:
            ValueError: an input of the wrong shape or type, or patches to keep.
        """
        if kept is not None:
            raise ValueError(f"{self.tokens.name}: a convolutional network keeps all of a signal; kept must be None")
        self.tokens.grid(x)
        map_ = self.last_map(x)
        return {"features_pooled": map_.flatten(2).mean(2), "features": map_.movedim(1, -1)}

    def last_map(self, x: Tensor) -> Tensor:
        """The last map, (B, P, ...)."""
        raise NotImplementedError
