"""Rules by which both jobs choose: warm-up, augmentation by the number of windows, how often to look, readers."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from train.auto.choices import BY_HAND, Choosing
from train.auto.facts import Facts
from train.config.sections import JobConfig, sample_augment
from train.core.advice import warmup_of
from vatt.data.config import AugmentConfig

SHARE = 0.8  # of the memory that is free, which a run may fill
RESERVE = 2 << 30  # bytes: CUDA context, gaps, temporaries (as `vatt plan` assumes)
OF_PROCESS = 1 << 30  # bytes of main memory: the process itself
TELLING = 0.01  # share of captions or classes with left, right or a colour from which augmentation heeds them
PATIENCE = {"cpu": 12 * 3600.0, "cuda": 7 * 86_400.0}  # seconds of a run that nobody asked to be longer
_MILD, _PAPER = 10_000, 1_000_000  # windows up to which augmentation is mild, and from which on it is the paper's


def training_type(config: JobConfig, facts: Facts) -> torch.dtype:
    """What the run computes in."""
    return torch.bfloat16 if facts.on_gpu and config.engine.precision != "fp32" else torch.float32


def power_of_two(value: float) -> int:
    """The largest one that is not above a value; 1 at least."""
    return 1 << max(0, int(math.log2(max(1.0, value)) + 1e-9))


def warm_up(picks: Choosing, share: float, most: int, why: str) -> None:
    """A share of the run, 10 steps at least and half of the run at most."""
    steps, by_hand = picks.config.run.steps, picks.config.optim.warmup_steps
    if picks.is_given("optim.warmup_steps") and (cut := warmup_of(by_hand, steps)) < by_hand:
        picks.tell("optim.warmup_steps", str(cut), f"half of the run, which is the most; {BY_HAND}: {by_hand}")
        return
    warmup = min(most, max(10, round(share * steps)), steps // 2)
    reason = f"{why}, as on the sample"
    if warmup == most:
        reason = f"the paper's; {why} would be more"
    elif warmup == steps // 2:
        reason = "half of a run that is this short"
    elif warmup == 10:
        reason = f"the least; {why} would be fewer"
    picks.set("optim.warmup_steps", warmup, reason)


def augmentation(picks: Choosing, windows: int) -> AugmentConfig | None:
    """How strong it is, by the number of windows to train on; sets all of it but flips and hues. None where it is
    off."""
    if windows < _MILD:
        values, name, reason = sample_augment(), "mild", f"{windows:,} windows: that of the sample (measured there)"
        values = replace(values, hue=0.05)
    elif windows < _PAPER:
        values = AugmentConfig(area_min=0.3, aspect_min=0.75, aspect_max=4 / 3, hue=0.1, saturation=0.3, contrast=0.3)
        name, reason = "medium", f"{windows:,} windows: between the sample's and the paper's (a guess)"
    else:
        values, name, reason = AugmentConfig(), "the paper's", f"{windows:,} windows"
    names = ("area_min", "aspect_min", "aspect_max", "brightness", "saturation", "contrast")
    by_hand = picks.put({f"data.augment.{name}": getattr(values, name) for name in names})
    if not picks.config.data.augment.enabled:
        picks.tell("data.augment", "off", BY_HAND)
        return None
    if by_hand:
        reason += f"; set by you: {', '.join(key.rpartition('.')[2] for key in by_hand)}"
    picks.tell("data.augment", name, reason)
    return values


def pace(picks: Choosing, never: str) -> None:
    """How often a run is evaluated, saved and recorded. ``never``: why it is not evaluated while it runs, if so."""
    steps = picks.config.run.steps
    often = -(-steps // 4) if steps >= 1000 else -(-steps // 2) if steps >= 100 else 0
    reason = "and at the end; four times in a run, and every 10,000 steps"
    reason = "at the end alone" if not often else "and at the end; twice in a short run" if steps < 1000 else reason
    picks.set("run.eval_every", 0 if never else min(10_000, often), never or reason)
    picks.set("run.save_every", min(5000, often), "at the end alone" if not often else "so that --resume can go on")
    picks.set("run.log_every", max(1, min(50, steps // 13)), "at least a dozen records")


def workers(picks: Choosing, facts: Facts) -> None:
    """Reading processes."""
    large = facts.survey.height * facts.survey.width > 320 * 240 or not facts.survey.height
    cores = f"{facts.cores} {'core' if facts.cores == 1 else 'cores'}"
    if facts.on_gpu:
        count = max(1, min(16, facts.cores - 2))
        reason = f"of {cores}; decoding is what a GPU waits for"
    elif large:
        count, reason = max(1, min(16, facts.cores)), f"on {cores}; pictures are large, decoding is slow"
    else:
        count, reason = max(1, min(16, facts.cores // 2)), f"on {cores}; pictures are small, decoding is fast"
    picks.set("data.workers", count, reason)
