"""Training steps of one preset on random inputs: every rate of DropToken, batches doubling until memory ends."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache, partial

import torch

from bench.jobs.model import Training, config_of, dropout_of, pace, peak_of, random_batch, type_of
from bench.jobs.options import Options, Sweep
from bench.jobs.rows import Report, Row, attempt, case, inputs_in_words, times
from bench.measure.memory import held_mib, peak_mib
from bench.measure.timing import tidy
from vatt.analysis.flops import train_flops_per_sample
from vatt.models.config import VATTConfig


def pretrain(options: Options, sweep: Sweep, report: Report) -> None:
    """Measures all cases of a preset. Where a batch fails, larger ones at that rate are left out."""
    device = torch.device(options.device)
    peak = peak_of(device, options.size)
    for drop, batches in options.cases(sweep):
        _rate(options, sweep.model, drop, batches, peak, report)
        tidy(device)  # the model of one rate is gone before that of the next is built


def _rate(
    options: Options, model: str, drop: int, batches: tuple[int, ...], peak: tuple[float, str], report: Report
) -> None:
    device, config = torch.device(options.device), config_of(model, drop, options.tiny)
    built = cache(partial(Training, config, device, options.backend))  # once for all batches
    for batch in batches:
        about = describe(options, model, config, batch, drop)
        if not attempt(report, about, device, partial(measured, options, config, built, batch, peak)):
            return
        tidy(device)


def describe(options: Options, model: str, config: VATTConfig, batch: int, drop: int) -> Row:
    """The row of a case without its figures."""
    device = torch.device(options.device)
    return case(
        options,
        "pretrain",
        f"{model} b{batch} drop {drop}%",
        mode="step",
        provider=f"ours {options.backend}",
        shape=f"{inputs_in_words(config, batch)}, DropToken {drop}%",
        dtype=str(type_of(device)).removeprefix("torch."),
        dropout=dropout_of(config),
        select=["--model", model, "--batch", str(batch), "--drop", str(drop)],
    )


def measured(
    options: Options, config: VATTConfig, built: Callable[[], Training], batch: int, peak: tuple[float, str]
) -> Row:
    """The figures of a case. ``peak_mib`` counts all tensors: weights, gradients, optimizer, inputs and the step's own.

    ``first_call_s``: the first step of this batch, and of the first batch, building the model.

    ``peak``: operations a second that ``mfu`` is a share of, and what they are. Raises whatever a step raises.
    """
    device = torch.device(options.device)
    began = time.perf_counter()
    training = built()
    inputs = random_batch(config, batch, device)
    step = partial(training.step, inputs)
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    first = time.perf_counter() - began
    training.drop_gradients()  # the step that is watched makes them anew
    held = held_mib(training.module, training.optimizer, inputs.values())
    beyond = peak_mib(step, device)
    timing = pace(step, device, options.budget, options.amount.fewest)
    flops = train_flops_per_sample(config) * batch / timing.median * 1e3
    return {
        **times(timing),
        "rate": 1e3 * batch / timing.median,
        "unit": "samples/s",
        "tflops": flops * 1e-12,
        "roof_tflops": peak[0] * 1e-12,
        "mfu": flops / peak[0],
        "peak_mib": held + beyond,
        "first_call_s": first,
        "note": f"{peak[1]}; peak of all tensors, {held:.0f} MiB of them before the step",
    }
