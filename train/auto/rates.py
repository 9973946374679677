"""How fast a machine computes, and how long that takes, in words: what an estimate before the first step rests on."""

from __future__ import annotations

from dataclasses import dataclass

from train.auto.facts import Facts
from vatt.analysis.flops import peak_flops
from vatt.analysis.plan.request import Request

# Operations a second of one core in training steps, where a machine is not timed: vatt-tiny took 93.5 clips of 1.22
# GFLOP a second on 2 cores (AMD EPYC, bench/results/results.csv), and other CPUs somewhat less.
CORE = 45e9
CPU_SHARE = 0.6  # of a product of matrices that a step reaches on a CPU: vatt-tiny, 32 clips (the same file)
GPU_PEAK = 50e12  # of a GPU that vatt/analysis/flops.py does not know
HOPELESS = 60 * 86_400.0  # seconds of a run that nobody waits for on a CPU
START = 10.0  # seconds until the first step
_YEAR = 365.25 * 86_400


@dataclass(frozen=True)
class Expected:
    """Seconds of the whole run, of its steps and of its evaluations; and in words, what they rest on."""

    seconds: float
    steps: float
    evaluations: float
    basis: str


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


def step_seconds(facts: Facts, rate: float, flops: float, clips: float, workers: int, threads: int) -> float:
    """Seconds of a step.

    Args:
        rate: operations a second, see `computing_rate`; flops: of a clip in training; clips: of a step, on a rank.
        workers, threads: that read and compute; 0 threads: all cores but one.
    """
    computing, reading = clips * flops / rate, clips * facts.survey.reading
    step = max(computing, reading / max(1, workers))
    if not facts.on_gpu:  # both want the same cores
        threads = threads or max(1, facts.cores - 1)
        step = max(step, (computing * threads + reading) / facts.cores)
    return step


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
