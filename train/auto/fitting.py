"""How a batch is made to fit into memory: as it is, by higher stages of ZeRO, by layers that are computed twice."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from train.auto.facts import Facts
from train.config.sections import JobConfig


@dataclass(frozen=True)
class Fit:
    """How a batch fits.

    Attributes:
        part: clips of a rank that fit at once; 0 where not even the smallest part does.
        parts: into how many its batch is divided: engine.contrastive_parts in pretraining, and in fine-tuning, whose
            loss is a mean over clips, engine.gradient_accumulation.
        needed: bytes of a rank.
    """

    zero: int
    checkpointing: bool
    part: int
    parts: int
    needed: int


def local_batch(config: JobConfig, facts: Facts) -> int:
    """Clips of a step on a rank."""
    return max(1, config.run.batch_size // facts.ranks)


def first_fit(
    config: JobConfig,
    facts: Facts,
    in_parts: Callable[[int, bool], Fit],
    least: int,
    by_hand: Collection[str],
    layers: bool,
) -> Fit:
    """The first of these that gives parts of ``least`` clips, or the whole batch: as it is; higher stages of ZeRO, on
    several GPUs; and layers that are computed twice. Else the largest parts of all, and where not one clip fits, what
    needs the least. What was set by hand stays.

    Args:
        in_parts: of a stage of ZeRO, and whether layers are computed twice, the fewest parts that fit.
        layers: whether the model has layers that can be computed twice.
    """
    engine, best = config.engine, None
    stages, twice = [engine.zero], [engine.activation_checkpointing]
    if "engine.zero" not in by_hand and facts.ranks > 1:
        stages += [stage for stage in (1, 2, 3) if stage > engine.zero]
    if "engine.activation_checkpointing" not in by_hand and not twice[0] and layers:
        twice.append(True)
    for checkpointing in twice:
        for zero in stages:
            found = in_parts(zero, checkpointing)
            smaller = best is not None and not best.part and found.needed < best.needed
            if best is None or found.part > best.part or smaller:
                best = found
            if found.part >= min(local_batch(config, facts), least):
                return best
    assert best is not None
    return best
