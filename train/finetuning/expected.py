"""What a fine-tuning run needs, before its first step: memory of a step, and time. Models of `vatt.analysis`."""

from __future__ import annotations

from collections.abc import Collection

import torch

from train.auto.facts import Facts
from train.auto.fitting import Fit, first_fit, local_batch
from train.auto.rates import START, Expected, computing_rate, step_seconds
from train.auto.rules import OF_PROCESS, RESERVE, SHARE, training_type
from train.config.finetuning import FinetuneConfig
from vatt.analysis.flops import classifier_flops
from vatt.analysis.memory import classifier_activation_bytes
from vatt.analysis.plan.zero import Weights, states_of, weights_of
from vatt.data.slots import PROCESS
from vatt.models import Classifier

_FEW = 4  # clips of a part below which layers are computed twice, so that more fit


def fit(config: FinetuneConfig, facts: Facts, by_hand: Collection[str] = ()) -> Fit:
    """See `first_fit`."""
    engine, local = config.engine, local_batch(config, facts)
    transformer = config.model.network == "transformer"
    possible = [n for n in range(1, local + 1) if local % n == 0 and local // n % config.data.windows_per_open == 0]
    if "engine.gradient_accumulation" in by_hand or not transformer:  # batch norms must see the whole batch
        possible = [engine.gradient_accumulation]
    weights = count_weights(config)

    def in_parts(zero: int, checkpointing: bool) -> Fit:
        size, parts = 0, 1
        for parts in possible or [1]:
            size = needed(config, facts, weights, zero, checkpointing, parts)
            if size <= SHARE * facts.memory:
                return Fit(zero, checkpointing, local // parts, parts, size)
        return Fit(zero, checkpointing, 0, parts, size)

    return first_fit(config, facts, in_parts, _FEW, by_hand, transformer)


def count_weights(config: FinetuneConfig) -> Weights:
    """Of the classifier, without making it. Raises ValueError for one that cannot be built."""
    with torch.device("meta"):
        model = Classifier.from_config(config.model)
    if config.freeze_backbone:
        model.backbone.requires_grad_(False)
    return weights_of(model)


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
