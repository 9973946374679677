"""Batch norm over all ranks.

Shapes: R rows (clips or sentences), D width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from vatt.distributed import sum_over_ranks
from vatt.models.layers import parameter


class BatchNorm(nn.Module):
    """Batch norm of (R, D), with statistics over the rows of all ranks when ``sync`` (official: use_xreplica_bn).

    As Keras, and unlike torch.nn.BatchNorm1d: the biased variance (divided by the number of rows) also goes into the
    running variance; running = momentum * running + (1 - momentum) * batch. It works with gloo on the CPU, with
    gradient through the shared statistics. Statistics and the running buffers are float32, also when the module is
    cast to a half type: a running average would not move in bfloat16.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, d_model: int, eps: float = 1e-5, momentum: float = 0.9, sync: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d_model))
        self.bias = parameter(d_model)
        self.register_buffer("running_mean", torch.zeros(d_model))
        self.register_buffer("running_var", torch.ones(d_model))
        self.eps, self.momentum, self.sync = eps, momentum, sync

    def forward(self, x: Tensor) -> Tensor:
        """(R, D) -> (R, D), of the type of ``x``. Training mode updates the running statistics."""
        if x.ndim != 2:
            raise ValueError(f"BatchNorm: expected (rows, width), got {tuple(x.shape)}")
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        if self.training:
            mean, var = self._statistics(wide)
            self._remember(mean.detach(), var.detach())
        else:
            mean, var = self.running_mean, self.running_var
        normed = (wide - mean) * torch.rsqrt(var + self.eps)
        return (normed * self.weight + self.bias).to(x.dtype)

    def _remember(self, mean: Tensor, var: Tensor) -> None:
        """Moves the running statistics, unless the batch is not finite: a skipped step must leave no trace."""
        finite = torch.isfinite(mean).all() & torch.isfinite(var).all()
        for running, batch in ((self.running_mean, mean), (self.running_var, var)):
            moved = running.lerp(batch.to(running), 1 - self.momentum)
            running.copy_(torch.where(finite, moved, running))

    def _statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and biased variance over the rows; two passes, since E[x^2] - E[x]^2 cancels in float32."""
        if not self.sync:
            return x.mean(0), x.var(0, correction=0)
        sums = sum_over_ranks(torch.cat([x.sum(0), x.new_tensor([x.shape[0]])]))
        mean, rows = sums[:-1] / sums[-1], sums[-1].detach()
        return mean, sum_over_ranks((x - mean).square().sum(0)) / rows

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> BatchNorm:
        before = {name: buffer for name, buffer in self._buffers.items() if buffer is not None}
        super()._apply(fn, recurse)
        for name, buffer in before.items():
            after = self._buffers[name]
            if after is not None and after.dtype != buffer.dtype:
                self._buffers[name] = buffer.to(after.device)
        return self
