"""Pretraining: steps on random inputs (`pretrain`), the command on the sample (`train`), the loss (`loss_memory`)."""

from __future__ import annotations

import json
import os
import shutil
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from bench.cases.base import Problem
from bench.cases.nce import Nce
from bench.jobs.case import Row, Training, attempt, case, config_of, figures, model_case, pace, peak_of, random_batch
from bench.jobs.options import DROPS, Options, doubling
from bench.jobs.reading import Films, sample_films
from bench.measure.timing import summarise, synchronize, tidy
from vatt.analysis.flops import train_flops_per_sample
from vatt.analysis.peak_memory import MIB, held_mib, peak_mib
from vatt.kernels.registry import backends
from vatt.models.config import VATTConfig
from vatt.presets import preset
from vatt.process import Message, ProcessFailed, running

CANDIDATES, WIDTH = 5, 256  # sentences a video of loss_memory, and of the models' common space
NEEDED = ("samples_per_s", "tflops", "mfu", "data_wait", "memory_gb", "skipped_steps")
TINY = [f"model.{part}.num_layers=1" for part in ("video", "waveform", "text", "unified")]


def pretrain(options: Options) -> Iterator[Message]:
    """Training steps at each rate of DropToken, batches rising; where one fails, the larger ones are skipped."""
    device = torch.device(options.device)
    peak = peak_of(device, options.size)
    for sweep in options.sweeps():
        for drop, batches in options.cases(sweep):
            config = config_of(sweep.model, drop, options.tiny)
            built = cache(partial(Training, config, device, options.backend))  # once for all batches
            for batch in batches:
                select = dict(model=sweep.model, batch=batch, drop=drop)
                rest: Row = dict(mode="step", more=f", DropToken {drop}%", select=select)
                about = model_case(options, "pretrain", sweep.model, batch, config, f" drop {drop}%", **rest)
                if not (yield from attempt(about, device, _steps, options, config, built, batch, peak)):
                    break
            del built
            tidy(device)  # the model of one rate is gone before that of the next is built


def _steps(
    options: Options, config: VATTConfig, built: Callable[[], Training], batch: int, peak: tuple[float, str]
) -> Row:
    """``peak_mib`` counts all tensors: weights, gradients, optimizer, inputs and the step's own. ``first_call_s``: the
    first step of this batch, and of the first batch, building the model.

    ``peak``: operations a second that ``mfu`` is a share of, and what they are. Raises whatever a step raises.
    """
    device = torch.device(options.device)
    began = time.perf_counter()
    training = built()
    inputs = random_batch(config, batch, device)
    step = partial(training.step, inputs)
    step()
    synchronize(device)
    first = time.perf_counter() - began
    training.optimizer.zero_grad()  # the step that is watched makes them anew
    held = held_mib(training.module, training.optimizer, inputs.values())
    beyond = peak_mib(step, device)
    timing = pace(step, device, options.budget, options.amount.fewest)
    flops = train_flops_per_sample(config) * batch / timing.median * 1e3
    rates = dict(tflops=flops * 1e-12, roof_tflops=peak[0] * 1e-12, mfu=flops / peak[0])
    note = f"{peak[1]}; peak of all tensors, {held:.0f} MiB of them before the step"
    return figures(timing, batch, "samples/s", **rates, peak_mib=held + beyond, first_call_s=first, note=note)


def train(options: Options) -> Iterator[Message]:
    """``deepspeed train/pretrain.py`` in a process of its own, and what it recorded of itself in metrics.jsonl. The
    files are written before the time counts."""
    for model, batch in options.reading():
        config = config_of(model, DROPS[0], options.tiny)
        about = model_case(options, "train", model, batch, config, "", mode="deepspeed train/pretrain.py")
        yield from attempt(about, torch.device("cpu"), _run, options, model, batch)


def _run(options: Options, model: str, batch: int) -> Row:
    """Runs the command. Raises ProcessFailed, or FileNotFoundError without DeepSpeed's launcher."""
    with sample_films(options.amount.clips) as films, tempfile.TemporaryDirectory(prefix="vatt-bench-") as folder:
        out = Path(folder) / "run"
        began = time.monotonic()
        hidden = {"CUDA_VISIBLE_DEVICES": ""} if options.device == "cpu" else {}  # it takes a GPU where it sees one
        with running(_command(options, model, batch, films, out), limit=options.end, environment=hidden) as process:
            process.finish()
        seconds = time.monotonic() - began
        records = read_records(out / "metrics.jsonl")
    peak = (None, "") if options.device == "cuda" else peak_of(torch.device("cpu"), options.size)
    return summary(records, batch, options.device, *peak) | {"first_call_s": seconds}


def _command(options: Options, model: str, batch: int, films: Films, out: Path) -> list[str]:
    launcher = shutil.which("deepspeed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if launcher is None:
        raise FileNotFoundError("deepspeed: the launcher is not installed (pip install deepspeed)")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    amount = options.amount
    words = [sys.executable, launcher, "--num_gpus", "1", "--master_port", port, "train/pretrain.py"]
    words += ["--data", str(films.manifest), "--config", "sample-gpu" if options.device == "cuda" else "sample"]
    words += ["--model", model, "--steps", str(amount.steps), "--batch-size", str(batch), "--out", str(out)]
    words += [f"run.log_every={amount.log}", "run.eval_every=0", "run.save_every=0"]
    words += [f"engine.kernels={options.backend}", f"data.workers={max(1, options.cores - 1)}"]
    return words + (TINY if options.tiny and preset(model).backbone != "convolutional" else [])


def read_records(path: Path) -> list[dict[str, Any]]:
    """The training records of a run. Raises ProcessFailed, which names the file and a missing field."""
    try:
        found = [json.loads(line) for line in path.read_text().splitlines()]
    except (OSError, ValueError) as error:
        raise ProcessFailed(f"{path.name}: cannot be read: {error}") from error
    records = [record for record in found if record.get("kind") == "train"]
    for number, record in enumerate(records, 1):
        if missing := [name for name in NEEDED if name not in record]:
            raise ProcessFailed(f"{path.name}, training record {number}: has no {', '.join(missing)}")
    if len(records) < 2:
        words = f"{len(records)} training records, and the first holds the start; at least 2 are needed"
        raise ProcessFailed(f"{path.name}: {words}")
    return records


def summary(records: list[dict[str, Any]], batch: int, device: str, peak: float | None, words: str) -> Row:
    """Figures from the records after the first, which holds the start: medians, and the mean share of waiting.

    ``peak``: operations a second for ``mfu``, where the command itself knows none (a CPU).
    """
    kept = records[1:]
    timing = summarise([1e3 * batch / record["samples_per_s"] for record in kept], [0.0])
    tflops = statistics.median(record["tflops"] for record in kept)
    known = kept[-1]["mfu"]
    if peak is None:
        words = "MFU of the data sheet" if known is not None else "MFU: no data sheet for this device"
    memory = "allocated on the GPU" if device == "cuda" else "resident size of the process"
    notes = [words, f"peak: {memory}", f"{len(kept)} records; first_call_s is the whole command"]
    if skipped := kept[-1]["skipped_steps"]:
        notes.append(f"{skipped} steps were skipped: loss or gradient not finite")
    rest: Row = dict(tflops=tflops, mfu=known, host_ms=None, note="; ".join(notes))
    if peak is not None:
        rest |= dict(roof_tflops=peak * 1e-12, mfu=tflops * 1e12 / peak)
    rest["wait_share"] = statistics.fmean(record["data_wait"] for record in kept)
    return figures(timing, batch, "samples/s", peak_mib=kept[-1]["memory_gb"] * 1e9 / MIB, **rest)


def loss_memory(options: Options) -> Iterator[Message]:
    """Memory and time of the contrastive loss, both passes, as the batch grows: every backend of ours, and the loss in
    the style of open_clip. Each ends at its first failure."""
    device = torch.device(options.device)
    for provider in (*backends("nce"), "open_clip"):
        for videos in options.batches or doubling(*options.amount.losses):
            shape = Nce(name=f"b{videos}", videos=videos, candidates=CANDIDATES, width=WIDTH, dtype=torch.float32)
            rest: Row = dict(shape=shape.words, dtype=shape.label, dropout=0.0, select=dict(batch=videos))
            name = f"b{videos} x{CANDIDATES} d{WIDTH}"
            about = case(options, "loss_memory", name, mode="forward+backward", provider=provider, **rest)
            if not (yield from attempt(about, device, _loss, options, shape, provider)):
                break


def _loss(options: Options, shape: Nce, provider: str) -> Row:
    device = torch.device(options.device)
    problem = Problem(shape, device)
    # Named, so that a backend that cannot run here says why.
    call, leaves = shape.providers(kernels=True)[provider].make(problem, 0.0)
    wanted = list(leaves.values())
    grads = problem.gradients(call())

    def both() -> None:
        torch.autograd.grad(call(), wanted, grads)

    both()
    peak = peak_mib(both, device)
    timing = pace(both, device, options.budget / 2, options.amount.fewest)
    tflops = shape.cost(True, provider=provider).flops / timing.median * 1e-9
    note = "peak beyond the embeddings; their gradients are among it"
    return figures(timing, shape.videos, "clips/s", tflops=tflops, peak_mib=peak, note=note)
