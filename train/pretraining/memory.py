"""Whether a configuration fits into memory, by the model of `vatt.analysis`: how large a part of a batch may be."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch

from train.config.pretraining import PretrainConfig
from train.pretraining.facts import Facts
from vatt.analysis.memory import activation_bytes
from vatt.analysis.plan.predict import sample_bytes
from vatt.analysis.plan.zero import States, state_bytes

SHARE = 0.8  # of the memory that is free, which a run may fill
_RESERVE = 2 << 30  # bytes: CUDA context, gaps, temporaries (as `vatt plan` assumes)
_PROCESS = 1 << 30  # bytes of main memory: the process itself
_LEAST = 8  # clips of a part below which layers are computed twice, so that more fit
_AHEAD = 5  # batches that the loader holds at most; parts of them where a batch is in parts


@dataclass(frozen=True)
class Fit:
    """How a batch fits.

    Attributes:
        part: clips of a rank that fit at once; 0 where not even one does.
        parts: into how many its batch is divided.
    """

    zero: int
    checkpointing: bool
    part: int
    parts: int


def fit(config: PretrainConfig, facts: Facts, by_hand: Collection[str] = ()) -> Fit:
    """The first of these that gives parts of 8 clips, or the whole batch: as it is; higher stages of ZeRO, on several
    GPUs; and layers that are computed twice. What was set by hand stays."""
    local = max(1, config.run.batch_size // facts.ranks)
    enough = min(local, _LEAST)
    stages = [config.engine.zero]
    if "engine.zero" not in by_hand and facts.ranks > 1:
        stages += [stage for stage in (1, 2, 3) if stage > config.engine.zero]
    twice = [config.engine.activation_checkpointing]
    if "engine.activation_checkpointing" not in by_hand and not twice[0]:
        twice.append(True)
    best: Fit | None = None
    for checkpointing in twice:
        for zero in stages:
            part = largest_part(config, facts, zero, checkpointing, local)
            if best is None or part > best.part:
                best = Fit(zero, checkpointing, part, _parts(local, part))
            if part >= enough:
                return best
    assert best is not None
    return best


def _parts(local: int, part: int) -> int:
    """The fewest equal parts, of at most ``part`` clips each."""
    return next(parts for parts in range(1, local + 1) if local % parts == 0 and local // parts <= max(1, part))


def largest_part(config: PretrainConfig, facts: Facts, zero: int, checkpointing: bool, most: int) -> int:
    """The largest number of clips, up to ``most``, whose passes fit on a rank; 0 if one does not."""
    states = state_bytes(config.model, zero, facts.ranks, _dtype(config, facts))
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        fits = needed(config, facts, states, checkpointing, middle) <= SHARE * facts.memory
        low, high = (middle, high) if fits else (low, middle - 1)
    return low


def _dtype(config: PretrainConfig, facts: Facts) -> torch.dtype:
    return torch.bfloat16 if facts.on_gpu and config.engine.precision != "fp32" else torch.float32


def needed(config: PretrainConfig, facts: Facts, states: States, checkpointing: bool, part: int) -> int:
    """Bytes of a rank at the peak of a step whose parts have so many clips."""
    own = (states.parameters, states.master, states.moments, states.gradients, states.gathered)
    kept = activation_bytes(
        config.model,
        _dtype(config, facts),
        part,
        checkpointing=checkpointing,
        backend="auto" if facts.on_gpu else "torch",
        ranks=facts.ranks,
        device="cuda" if facts.on_gpu else "cpu",
    )
    batches = 2 * part if facts.on_gpu else _AHEAD * part
    passes = sum(own) + states.buckets + states.copies + kept.total + batches * sample_bytes(config.model)
    return max(passes, states.updating) + (_RESERVE if facts.on_gpu else _PROCESS)


def host_batch(config: PretrainConfig, facts: Facts) -> int:
    """Clips of a rank whose batch fits into its main memory, of which a batch takes at most a third."""
    room = SHARE * facts.host - _PROCESS
    return max(2, int(room / 3 / sample_bytes(config.model)))
