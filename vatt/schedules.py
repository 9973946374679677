"""Learning rates: plain functions from the step to the rate.

The official ones are not clamped: beyond ``total_steps`` a cosine rises again, and the official pretraining schedule,
whose last segment is empty, is NaN from there on (it never gets there). ``clamp=True``, the default, holds the last
rate instead; ``clamp=False`` is the official function.
"""

from __future__ import annotations

import math
from collections.abc import Sequence


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
