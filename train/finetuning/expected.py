"""What a fine-tuning run needs, before its first step: memory of a step, and time. Models of `vatt.analysis`."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch

from train.auto.facts import Facts
from train.auto.rates import START, Expected, computing_rate, step_seconds
from train.auto.rules import OF_PROCESS, RESERVE, SHARE, training_type
from train.config.finetuning import FinetuneConfig
from vatt.analysis.flops import classifier_flops
from vatt.analysis.memory import classifier_activation_bytes
from vatt.analysis.plan.zero import Weights, states_of, weights_of
from vatt.data.slots import PROCESS
from vatt.models import Classifier

_FEW = 4  # clips of a part below which layers are computed twice, so that more fit


@dataclass(frozen=True)
class Fit:
    """How a batch fits.

    Attributes:
        part: clips of a rank that fit at once; 0 where not even one does.
        parts: into how many its batch is divided (engine.gradient_accumulation). The loss is a mean over clips, so
            that of the whole batch.
        needed: bytes of a rank.
    """

    zero: int
    checkpointing: bool
    part: int
    parts: int
    needed: int


def fit(config: FinetuneConfig, facts: Facts, by_hand: Collection[str] = ()) -> Fit:
    """The first of these that gives parts of 4 clips, or the whole batch: as it is; higher stages of ZeRO, on several
    GPUs; and layers that are computed twice. What was set by hand stays."""
    engine, local = config.engine, local_batch(config, facts)
    transformer = config.model.network == "transformer"
    stages, twice = [engine.zero], [engine.activation_checkpointing]
    if "engine.zero" not in by_hand and facts.ranks > 1:
        stages += [stage for stage in (1, 2, 3) if stage > engine.zero]
    if "engine.activation_checkpointing" not in by_hand and not twice[0] and transformer:
        twice.append(True)
    possible = [n for n in range(1, local + 1) if local % n == 0 and local // n % config.data.windows_per_open == 0]
    if "engine.gradient_accumulation" in by_hand or not transformer:  # batch norms must see the whole batch
        possible = [engine.gradient_accumulation]
    weights, best = count_weights(config), None
    for checkpointing in twice:
        for zero in stages:
            found = _in_parts(config, facts, weights, zero, checkpointing, possible or [1])
            if best is None or (found.part, -found.needed) > (best.part, -best.needed):
                best = found
            if found.part >= min(local, _FEW):
                return best
    assert best is not None
    return best


def local_batch(config: FinetuneConfig, facts: Facts) -> int:
    """Clips of a step on a rank."""
    return max(1, config.run.batch_size // facts.ranks)


def count_weights(config: FinetuneConfig) -> Weights:
    """Of the classifier, without making it. Raises ValueError for one that cannot be built."""
    with torch.device("meta"):
        model = Classifier.from_config(config.model)
    if config.freeze_backbone:
        model.backbone.requires_grad_(False)
    return weights_of(model)


def _in_parts(
    config: FinetuneConfig, facts: Facts, weights: Weights, zero: int, checkpointing: bool, possible: Collection[int]
) -> Fit:
    local, size, parts = local_batch(config, facts), 0, 1
    for parts in possible:
        size = needed(config, facts, weights, zero, checkpointing, parts)
        if size <= SHARE * facts.memory:
            return Fit(zero, checkpointing, local // parts, parts, size)
    return Fit(zero, checkpointing, 0, parts, size)


def needed(config: FinetuneConfig, facts: Facts, weights: Weights, zero: int, checkpointing: bool, parts: int) -> int:
    """Bytes of a rank at the peak of a step whose batch comes in so many parts. A frozen backbone keeps nothing; what
    its passes hold at a time is counted as layers that are computed twice, which is more."""
    dtype, local = training_type(config, facts), local_batch(config, facts)
    states, part = states_of(weights, zero, facts.ranks, dtype), max(1, local // parts)
    kept = classifier_activation_bytes(
        config.model,
        dtype,
        part,
        checkpointing=(checkpointing or config.freeze_backbone) and config.model.network == "transformer",
        backend="auto" if facts.on_gpu else "cpu",
        device="cuda" if facts.on_gpu else "cpu",
    )
    clips, others = 2 * part, RESERVE
    if not facts.on_gpu:  # what is read lies in the same memory
        clips, others = part * (1 + config.data.prefetch), OF_PROCESS + config.data.workers * PROCESS
    own = states.parameters + states.master + states.moments + states.gradients + states.gathered
    passes = own + states.buckets + states.copies + kept + clips * clip_bytes(config)
    return max(passes, states.updating) + others


def clip_bytes(config: FinetuneConfig) -> int:
    """Bytes of a clip as the engine gets it: uint8 pixels or float32 sound, and float32 targets."""
    spec, video = config.model.input, config.model.modality == "video"
    return (3 * spec.frames * spec.size**2 if video else 4 * spec.samples) + 4 * config.model.num_classes


def training_flops(config: FinetuneConfig) -> float:
    """Operations of a clip in training, without those that are done again."""
    return classifier_flops(config.model, training=True) * (1 if config.freeze_backbone else 3)


def expected(config: FinetuneConfig, facts: Facts, held_out: int, timed: bool = True) -> Expected:
    """The time of a run that evaluates ``held_out`` clips; ``timed``: as in `computing_rate`."""
    rate, basis = computing_rate(facts, timed)
    again = classifier_flops(config.model, training=True) if config.engine.activation_checkpointing else 0.0
    local, workers = config.run.batch_size / facts.ranks, config.data.workers
    step = step_seconds(facts, rate, training_flops(config) + again, local, workers, config.engine.threads)
    run, options = config.run, config.evaluation
    times = 1 + (max(0, run.steps - 1) // run.eval_every if run.eval_every else 0)
    clips = min(options.max_clips or held_out, held_out) / facts.ranks
    views = options.clips * options.crops * classifier_flops(config.model) / rate
    once = clips * (views + options.clips * facts.survey.reading / max(1, workers))
    basis += f", {1e3 * facts.survey.reading:.0f} ms to read a clip" if facts.survey.reading else ", without reading"
    return Expected(START + run.steps * step + times * once, run.steps * step, times * once, basis)
