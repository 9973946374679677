"""Learning rate schedules and optimizers with the conventions of the official (Keras) ones.

A schedule is a plain function from the step to the rate. The official ones are not clamped: beyond ``total_steps`` a
cosine rises again, and the official pretraining schedule, whose last segment is empty, is NaN from there on (it never
gets there). ``clamp=True``, the default, holds the last rate instead; ``clamp=False`` is the official function.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT


def cosine(
    step: float,
    *,
    base: float,
    total_steps: int,
    warmup_steps: int = 0,
    warmup_rate: float = 0.0,
    clamp: bool = True,
) -> float:
    """Linear from ``warmup_rate`` to ``base`` in ``warmup_steps``, then half a cosine period to 0 at ``total_steps``.

    Official CosineLearningRateWithLinearWarmup: fine-tuning.
    """
    levels, starts = (base,), (warmup_steps,)
    return step_cosine(
        step,
        levels=levels,
        steps=starts,
        total_steps=total_steps,
        warmup_steps=warmup_steps,
        warmup_rate=warmup_rate,
        clamp=clamp,
    )


def step_cosine(
    step: float,
    *,
    levels: Sequence[float] = (1e-4, 5e-5),
    steps: Sequence[int] = (5000, 500000),
    total_steps: int = 500000,
    warmup_steps: int = 5000,
    warmup_rate: float = 0.0,
    clamp: bool = True,
) -> float:
    """Linear warm-up to the first level, then half a cosine period from each level to the next, the last one to 0.

    Official StepCosineLearningRateWithLinearWarmup, with its pretraining defaults. ``steps[i]`` is where ``levels[i]``
    is reached. A last segment of length 0 (as in the defaults) leaves the last level: NaN unless ``clamp``.

    Raises:
        ValueError: levels and steps of different length, steps not ascending, or a first step other than the warm-up.
    """
    if len(levels) != len(steps) or not levels:
        raise ValueError(f"levels and steps: need equally many, at least one, got {levels} and {steps}")
    if list(steps) != sorted(steps) or steps[0] != warmup_steps:
        raise ValueError(f"steps: must ascend from warmup_steps={warmup_steps}, got {steps}")
    if step < warmup_steps:
        return warmup_rate + step / warmup_steps * (levels[0] - warmup_rate)
    index = max(i for i, start in enumerate(steps) if step >= start)
    last = index == len(levels) - 1
    start, end = steps[index], total_steps if last else steps[index + 1]
    target = 0.0 if last else levels[index + 1]
    if end <= start:
        return levels[index] if clamp else math.nan
    progress = (step - start) / (end - start)
    return _half_period(levels[index], target, min(progress, 1.0) if clamp else progress)


def quarter_cosine(
    step: float,
    *,
    base: float = 1e-4,
    final: float = 5e-5,
    total_steps: int = 500000,
    warmup_steps: int = 10000,
    warmup_rate: float = 0.0,
) -> float:
    """The paper's pretraining schedule: a quarter of a cosine period from ``base`` to ``final`` (section 4.1).

    The rate falls slowly first and fastest at the end; the official code has a half period (`step_cosine`).
    """
    if step < warmup_steps:
        return warmup_rate + step / warmup_steps * (base - warmup_rate)
    progress = min((step - warmup_steps) / max(total_steps - warmup_steps, 1), 1.0)
    return final + (base - final) * math.cos(math.pi / 2 * progress)


def _half_period(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (math.cos(math.pi * progress) + 1) / 2


class Adam(torch.optim.AdamW):
    """Adam whose epsilon is not bias-corrected, as in Keras, with decoupled weight decay (0 by default).

    The official update is lr * sqrt(1 - b2^t) / (1 - b1^t) * m / (sqrt(v) + eps). PyTorch divides sqrt(v) by
    sqrt(1 - b2^t) before it adds epsilon, so the two are equal when PyTorch's epsilon is eps / sqrt(1 - b2^t). It is
    set for the time of each step, so all of AdamW's implementations (for-loop, foreach, fused) work, and so does an
    engine that puts flat partitions into ``param_groups``. t is counted for each group (entry "t"); the
    parameters of a group are meant to be stepped together.
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
        counts = [self._steps(group) + 1 for group in self.param_groups]
        try:
            for group, t in zip(self.param_groups, counts, strict=True):
                group["eps"] /= math.sqrt(1 - group["betas"][1] ** t)
            result = super().step(closure)
        finally:
            for group, eps in zip(self.param_groups, official, strict=True):
                group["eps"] = eps
        for group, t in zip(self.param_groups, counts, strict=True):
            if any(parameter.grad is not None for parameter in group["params"]):
                group["t"] = t
        return result

    def _steps(self, group: dict[str, Any]) -> int:
        """Updates that the parameters of ``group`` have had, as a Python number: reading the state of the fused
        implementation makes the host wait for the GPU. It is read once, after a state was loaded, and with a gradient
        scaler (``found_inf``), which may have skipped a step."""
        if "t" in group and getattr(self, "found_inf", None) is None:
            return group["t"]
        for parameter in group["params"]:
            state = self.state.get(parameter)
            if state and "step" in state:
                return int(state["step"])
        return 0


class SGD(torch.optim.Optimizer):
    """SGD with the learning rate inside the velocity, as in Keras.

    velocity = momentum * velocity - lr * gradient; weight += velocity. torch.optim.SGD keeps the rate outside, which
    differs whenever the rate changes.

    As with PyTorch's fused optimizers, an attribute ``found_inf``, a tensor of one element on the device of the
    weights, makes the update void where it is 1, without the host learning it.
    """

    found_inf: Tensor | None = None

    def __init__(self, params: ParamsT, lr: float = 5e-3, momentum: float = 0.9, weight_decay: float = 0.0) -> None:
        """``weight_decay`` is added to the gradient (L2). Raises ValueError for a negative value."""
        defaults = dict(lr=lr, momentum=momentum, weight_decay=weight_decay)
        for name, value in defaults.items():
            if value < 0:
                raise ValueError(f"{name}: must be >= 0, got {value}")
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
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
                if "velocity" not in self.state[p]:
                    self.state[p]["velocity"] = torch.zeros_like(p)
            velocities = [self.state[p]["velocity"] for p in params]
            if self.found_inf is None:
                torch._foreach_mul_(velocities, group["momentum"])
                torch._foreach_add_(velocities, grads, alpha=-group["lr"])
                torch._foreach_add_(params, velocities)
                continue
            void = self.found_inf > 0
            grads = [torch.where(void, 0.0, grad) for grad in grads]  # a product with 0 would keep what is not finite
            torch._foreach_mul_(velocities, torch.where(void, 1.0, group["momentum"]))
            torch._foreach_add_(velocities, grads, alpha=-group["lr"])
            torch._foreach_add_(params, torch._foreach_mul(velocities, torch.where(void, 0.0, 1.0)))
        return loss
