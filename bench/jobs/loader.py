"""Reading for training: clips a second of the loader, and how long a model's steps wait for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bench.jobs.clips import Films, sample_films
from bench.jobs.model import Training, config_of, dropout_of, type_of
from bench.jobs.options import DEFAULT_DROP, Options
from bench.jobs.rows import Report, Row, attempt, case, inputs_in_words, times
from bench.measure.timing import Timing, summarise
from vatt.data import Batch, DataConfig, TrainLoader
from vatt.models.config import VATTConfig

READ, STEP = "read", "read and step"
MOST = 100  # batches of one case


@dataclass(frozen=True)
class Share:
    """Of a batch: from one to the next; and which share of the time went on waiting for the loader, 0 to 1."""

    timing: Timing
    waited: float


def loader(options: Options, report: Report) -> None:
    """Measures reading alone and reading beside steps, for each preset and number of reading processes."""
    device = torch.device(options.device)
    with sample_films(options.amount.clips) as films:
        for model, batch in options.reading():
            config = config_of(model, DEFAULT_DROP, options.tiny)
            for workers in sorted({0, 1, max(1, options.cores - 1)}):
                for mode in (READ, STEP):
                    about = _describe(options, model, config, batch, workers, mode, films)
                    measure = partial(_measured, options, config, batch, workers, mode, films)
                    attempt(report, about, device, measure)


def _describe(
    options: Options, model: str, config: VATTConfig, batch: int, workers: int, mode: str, films: Films
) -> Row:
    steps = mode == STEP
    return case(
        options,
        "loader",
        f"{model} b{batch} workers {workers}",
        mode=mode,
        provider=f"ours {options.backend}" if steps else "ours",
        shape=f"{inputs_in_words(config, batch)}; {films.words}",
        dtype=str(type_of(torch.device(options.device))).removeprefix("torch.") if steps else "uint8",
        dropout=dropout_of(config) if steps else 0.0,
        select=["--model", model, "--batch", str(batch)],
    )


def _measured(options: Options, config: VATTConfig, batch: int, workers: int, mode: str, films: Films) -> Row:
    device = torch.device(options.device)
    consume: Callable[[Batch], Any] = lambda _: None  # noqa: E731
    before = torch.get_num_threads()
    if mode == STEP:
        training = Training(config, device, options.backend)
        consume = partial(_step, training, device)
    # As `train` does: each reading process has a core, the model the others.
    threads = max(1, options.cores - workers) if mode == STEP else 1
    reader = TrainLoader([films.source], films.tokenizer, config.input, DataConfig(workers=workers), batch_size=batch)
    torch.set_num_threads(threads)
    try:
        found = shared(reader, consume, options.budget, options.amount.fewest)
    finally:
        reader.close()
        torch.set_num_threads(before)
    reads = "this process" if workers == 0 else f"{workers} process{'es' if workers > 1 else ''}"
    return {
        **times(found.timing),
        "rate": 1e3 * batch / found.timing.median,
        "unit": "clips/s",
        "wait_share": found.waited,
        "note": f"{reads} with one thread each read; {threads} thread{'s' if threads > 1 else ''} of PyTorch beside",
    }


def shared(
    reader: TrainLoader, consume: Callable[[Batch], Any], seconds: float, fewest: int, warm_up: int = 1
) -> Share:
    """Gives the batches of ``reader`` to ``consume`` for about ``seconds``, at least ``fewest`` of them after
    ``warm_up``. The loader is closed by the caller."""
    batches: Iterator[Batch] = iter(reader)
    for _ in range(warm_up):
        consume(next(batches))
    found: list[float] = []
    waited = reader.waited
    while len(found) < fewest or (sum(found) < 1e3 * seconds and len(found) < MOST):
        began = time.perf_counter()
        consume(next(batches))
        found.append(1e3 * (time.perf_counter() - began))
    return Share(summarise(found, [0.0]), min(1.0, 1e3 * (reader.waited - waited) / sum(found)))


def _step(training: Training, device: torch.device, batch: Batch) -> None:
    """One update, waited for: `train` reads the losses of each step."""
    tensors = {name: x.to(device, non_blocking=True) for name, x in batch.items() if isinstance(x, Tensor)}
    training.step(tensors)
    if device.type == "cuda":
        torch.cuda.synchronize()
