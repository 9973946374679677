"""How long a run is expected to take: computing, reading and evaluating. An estimate, made before its first step."""

from __future__ import annotations

from dataclasses import dataclass

from train.config.pretraining import PretrainConfig
from train.pretraining.facts import Facts
from vatt.analysis.flops import forward_flops, peak_flops, train_flops_per_sample
from vatt.analysis.plan.request import Request

# Operations a second of one core in training steps, where a machine is not timed: vatt-tiny took 93.5 clips of 1.22
# GFLOP a second on 2 cores (AMD EPYC, bench/results/results.csv), and other CPUs somewhat less.
CORE = 45e9
CPU_SHARE = 0.6  # of a product of matrices that a step reaches on a CPU: vatt-tiny, 32 clips (the same file)
GPU_PEAK = 50e12  # of a GPU that vatt/analysis/flops.py does not know
HOPELESS = 60 * 86_400.0  # seconds of a run that nobody waits for on a CPU
_START = 10.0  # seconds until the first step
_YEAR = 365.25 * 86_400


@dataclass(frozen=True)
class Expected:
    """Seconds of the whole run, of its steps and of its evaluations; and in words, what they rest on."""

    seconds: float
    steps: float
    evaluations: float
    basis: str


def expected(config: PretrainConfig, facts: Facts, timed: bool = True) -> Expected:
    """The estimate; ``timed``: as in `computing_rate`."""
    rate, basis = computing_rate(facts, timed)
    local = config.run.batch_size / facts.ranks
    parts = max(1, config.engine.contrastive_parts)
    forwards = 1 + config.engine.activation_checkpointing + (parts - 1) / parts
    twice = (2 + forwards) / 3
    computing = local * train_flops_per_sample(config.model) * twice / rate
    reading = local * facts.survey.reading
    step = max(computing, reading / max(1, config.data.workers))
    if not facts.on_gpu:  # both want the same cores
        threads = config.engine.threads or max(1, facts.cores - 1)
        step = max(step, (computing * threads + reading) / facts.cores)
    times = evaluations(config)
    clips = min(config.evaluation.max_clips, held_out(config, facts))
    windows = clips * config.evaluation.windows
    forward = sum(part.total for part in forward_flops(config.model, training=False).values())
    once = windows * (forward / rate + facts.survey.reading / max(1, config.data.workers))
    steps, evaluating = config.run.steps * step, times * once
    basis += f", {1e3 * facts.survey.reading:.0f} ms to read a clip" if facts.survey.reading else ", without reading"
    return Expected(_START + steps + evaluating, steps, evaluating, basis)


def computing_rate(facts: Facts, timed: bool) -> tuple[float, str]:
    """Operations a second of a rank in training, and what that rests on.

    Args:
        timed: take what this CPU reached just now, which differs from run to run.
    """
    if facts.on_gpu:
        peak, share = peak_flops(facts.device_name), Request.mfu
        name = "of its data sheet" if peak else f"assumed, as {facts.device_name} is not known"
        return share * (peak or GPU_PEAK), f"{share:.0%} (assumed) of {(peak or GPU_PEAK) / 1e12:g} TFLOP/s {name}"
    if timed and facts.product:
        text = f"{CPU_SHARE:.0%} of the {facts.product / 1e9:.0f} GFLOP/s that this CPU reached just now"
        return CPU_SHARE * facts.product, text
    cores = max(1, facts.cores)
    return CORE * cores, f"{CORE / 1e9:g} GFLOP/s a core"


def evaluations(config: PretrainConfig) -> int:
    """How many there are, that of the end among them."""
    every = config.run.eval_every
    return 1 + (max(0, config.run.steps - 1) // every if every else 0)


def held_out(config: PretrainConfig, facts: Facts) -> int:
    """About how many clips are held out."""
    return facts.named[1] if facts.named else round(config.data.eval_share * facts.survey.clips)


def in_words(seconds: float) -> str:
    """A duration for people: "about 4 min", "about 3 days", "about half a year", "about 130 years"."""
    for name, unit, most in (("s", 1.0, 90), ("min", 60.0, 90), ("hours", 3600.0, 48), ("days", 86_400.0, 60)):
        if seconds / unit < most:
            value = seconds / unit
            return f"about {value:.2g} {name}" if value < 10 else f"about {value:.0f} {name}"
    if seconds < 0.75 * _YEAR:
        months = seconds / _YEAR * 12
        return "about half a year" if 5 <= months < 7.5 else f"about {months:.0f} months"
    years = seconds / _YEAR
    if years < 1.5:
        return "about a year"
    return f"about {float(f'{years:.2g}'):,.0f} years"
