"""Whether a configuration fits into memory, by the model of `vatt.analysis`: how large a part of a batch may be."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial

from train.auto.facts import Facts
from train.auto.fitting import Fit, first_fit, local_batch
from train.auto.rules import OF_PROCESS, RESERVE, SHARE, training_type
from train.config.pretraining import PretrainConfig
from vatt.analysis.memory import activation_bytes
from vatt.analysis.plan.predict import sample_bytes
from vatt.analysis.plan.zero import States, state_bytes
from vatt.data.slots import PROCESS

_LEAST = 8  # clips of a part below which layers are computed twice, so that more fit


def fit(config: PretrainConfig, facts: Facts, by_hand: Collection[str] = ()) -> Fit:
    """See `first_fit`."""
    layers = config.model.backbone != "convolutional"
    return first_fit(config, facts, partial(in_parts, config, facts), _LEAST, by_hand, layers)


def in_parts(config: PretrainConfig, facts: Facts, zero: int, checkpointing: bool) -> Fit:
    """The fewest equal parts whose passes fit on a rank, in which no clip is divided (data.windows_per_open)."""
    local, windows = local_batch(config, facts), config.data.windows_per_open
    possible = [n for n in range(1, local + 1) if local % n == 0 and local // n % windows == 0] or [1]
    if config.model.backbone == "convolutional":  # whose batch norms must see the whole batch
        possible = [1]
    states = {
        several: state_bytes(config.model, zero, facts.ranks, training_type(config, facts), parts=1 + several)
        for several in (False, True)
    }
    size = 0
    for parts in possible:
        size = needed(config, facts, states[parts > 1], checkpointing, parts)
        if size <= SHARE * facts.memory:
            return Fit(zero, checkpointing, local // parts, parts, size)
    return Fit(zero, checkpointing, 0, possible[-1], size)


def needed(config: PretrainConfig, facts: Facts, states: States, checkpointing: bool, parts: int) -> int:
    """Bytes of a rank at the peak of a step whose batch comes in so many parts. On a CPU the whole batch lies in the
    same memory, beside the parts that are read ahead and the reading processes."""
    own = (states.parameters, states.master, states.moments, states.gradients, states.gathered)
    local = local_batch(config, facts)
    kept = activation_bytes(
        config.model,
        training_type(config, facts),
        local,
        checkpointing=checkpointing,
        backend="auto" if facts.on_gpu else "torch",
        ranks=facts.ranks,
        device="cuda" if facts.on_gpu else "cpu",
        parts=parts,
    )
    part, others = local // parts, RESERVE
    clips = 2 * part
    if not facts.on_gpu:
        clips = local + config.data.prefetch * part
        others = OF_PROCESS + config.data.workers * PROCESS
    passes = sum(own) + states.buckets + states.copies + kept.total + clips * sample_bytes(config.model)
    return max(passes, states.updating) + others


def host_batch(config: PretrainConfig, facts: Facts) -> int:
    """Clips of a rank whose batch fits into its main memory, of which a batch takes at most a third."""
    room = SHARE * facts.host - OF_PROCESS
    return max(2, int(room / 3 / sample_bytes(config.model)))
