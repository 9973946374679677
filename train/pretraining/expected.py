"""How long a run is expected to take: computing, reading and evaluating. An estimate, made before its first step."""

from __future__ import annotations

from train.auto.facts import Facts
from train.auto.rates import START, Expected, computing_rate, step_seconds
from train.config.pretraining import PretrainConfig
from vatt.analysis.flops import forward_flops, train_flops_per_sample


def expected(config: PretrainConfig, facts: Facts, timed: bool = True) -> Expected:
    """The estimate; ``timed``: as in `computing_rate`."""
    rate, basis = computing_rate(facts, timed)
    local = config.run.batch_size / facts.ranks
    parts = max(1, config.engine.contrastive_parts)
    forwards = 1 + config.engine.activation_checkpointing + (parts - 1) / parts
    twice = (2 + forwards) / 3
    flops, workers = train_flops_per_sample(config.model) * twice, config.data.workers
    step = step_seconds(facts, rate, flops, local, workers, config.engine.threads)
    times = evaluations(config)
    clips = min(config.evaluation.max_clips, held_out(config, facts))
    windows = clips * config.evaluation.windows
    forward = sum(part.total for part in forward_flops(config.model, training=False).values())
    once = windows * (forward / rate + facts.survey.reading / max(1, config.data.workers))
    steps, evaluating = config.run.steps * step, times * once
    basis += f", {1e3 * facts.survey.reading:.0f} ms to read a clip" if facts.survey.reading else ", without reading"
    return Expected(START + steps + evaluating, steps, evaluating, basis)


def evaluations(config: PretrainConfig) -> int:
    """How many there are, that of the end among them."""
    every = config.run.eval_every
    return 1 + (max(0, config.run.steps - 1) // every if every else 0)


def held_out(config: PretrainConfig, facts: Facts) -> int:
    """About how many clips are held out."""
    return facts.named[1] if facts.named else round(config.data.eval_share * facts.survey.clips)
