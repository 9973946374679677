"""Optimizers with the conventions of the official (Keras) ones."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.optim.optimizer import ParamsT


class Adam(torch.optim.AdamW):
    """Adam whose epsilon is not bias-corrected, as in Keras, with decoupled weight decay (0 by default).

    The official update is lr * sqrt(1 - b2^t) / (1 - b1^t) * m / (sqrt(v) + eps). PyTorch divides sqrt(v) by
    sqrt(1 - b2^t) before it adds epsilon, so the two are equal when PyTorch's epsilon is eps / sqrt(1 - b2^t). It is
    set for the time of each step, so all of AdamW's implementations (for-loop, foreach, fused) work, and so does an
    engine that puts flat partitions into ``param_groups``. t is that of the first parameter of a group that has a
    state; the parameters of a group are meant to be stepped together.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-7,
        weight_decay: float = 0.0,
        **options: Any,
    ) -> None:
        """``options`` are those of torch.optim.AdamW (foreach, fused, ...)."""
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, **options)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update. ``closure`` as in torch.optim.AdamW."""
        official = [group["eps"] for group in self.param_groups]
        try:
            for group in self.param_groups:
                t = self._steps(group) + 1
                group["eps"] /= math.sqrt(1 - group["betas"][1] ** t)
            return super().step(closure)
        finally:
            for group, eps in zip(self.param_groups, official, strict=True):
                group["eps"] = eps

    def _steps(self, group: dict[str, Any]) -> int:
        """Updates that the parameters of ``group`` have had."""
        for parameter in group["params"]:
            state = self.state.get(parameter)
            if state and "step" in state:
                return int(state["step"])
        return 0


class SGD(torch.optim.Optimizer):
    """SGD with the learning rate inside the velocity, as in Keras.

    velocity = momentum * velocity - lr * gradient; weight += velocity. torch.optim.SGD keeps the rate outside, which
    differs whenever the rate changes.
    """

    def __init__(self, params: ParamsT, lr: float = 5e-3, momentum: float = 0.9, weight_decay: float = 0.0) -> None:
        """``weight_decay`` is added to the gradient (L2). Raises ValueError for a negative value."""
        defaults = dict(lr=lr, momentum=momentum, weight_decay=weight_decay)
        for name, value in defaults.items():
            if value < 0:
                raise ValueError(f"{name}: must be >= 0, got {value}")
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One update. ``closure`` computes the loss and its gradients again, and its value is returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            grads = [p.grad for p in params]
            if group["weight_decay"]:
                grads = list(torch._foreach_add(grads, params, alpha=group["weight_decay"]))
            for p in params:
                self.state[p].setdefault("velocity", torch.zeros_like(p))
            velocities = [self.state[p]["velocity"] for p in params]
            torch._foreach_mul_(velocities, group["momentum"])
            torch._foreach_add_(velocities, grads, alpha=-group["lr"])
            torch._foreach_add_(params, velocities)
        return loss
