"""Extracting embeddings: clips a second from file to vector, as `vatt.evaluation.retrieval.embed` does it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from functools import partial

import torch

from bench.jobs.clips import Films, sample_films
from bench.jobs.model import config_of, type_of
from bench.jobs.options import Options
from bench.jobs.rows import Report, Row, attempt, case, inputs_in_words, times
from bench.measure.timing import summarise
from vatt.data import Batch, DataConfig, eval_batches
from vatt.evaluation.retrieval import embed as extract
from vatt.models import VATT
from vatt.models.config import VATTConfig


def embed(options: Options, report: Report) -> None:
    """Measures each preset, with all its patches and one window a clip."""
    device = torch.device(options.device)
    with sample_films(options.amount.clips) as films:
        for model, batch in options.reading():
            config = config_of(model, 0, options.tiny)
            for workers in sorted({0, max(1, options.cores - 1)}):
                about = case(
                    options,
                    "embed",
                    f"{model} b{batch} workers {workers}",
                    mode="embed",
                    provider=f"ours {options.backend}",
                    shape=f"{inputs_in_words(config, batch)}; {films.words}",
                    dtype=str(type_of(device)).removeprefix("torch."),
                    dropout=0.0,
                    select=["--model", model, "--batch", str(batch)],
                )
                attempt(report, about, device, partial(_measured, options, config, batch, workers, films))


def _measured(options: Options, config: VATTConfig, batch: int, workers: int, films: Films) -> Row:
    device = torch.device(options.device)
    torch.manual_seed(0)
    model = VATT(config, options.backend).to(device, type_of(device))
    read = partial(
        eval_batches, films.clips, films.tokenizer, config.input, DataConfig(workers=workers), batch_size=batch
    )
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, options.cores - workers))
    found: list[float] = []
    waits: list[float] = []
    try:
        _once(model, read(), device)  # compiles
        while len(found) < options.amount.fewest or sum(found) < options.budget:
            seconds, waited = _once(model, read(), device)
            found.append(seconds)
            waits.append(waited)
    finally:
        torch.set_num_threads(before)
    clips = len(films.clips)
    timing = summarise([1e3 * seconds * batch / clips for seconds in found], [0.0])
    return {
        **times(timing),
        "rate": 1e3 * batch / timing.median,
        "unit": "clips/s",
        "wait_share": min(1.0, sum(waits) / sum(found)),
        "note": f"ms of a batch, from passes over {clips} clips, the start of reading processes among them",
    }


def _once(model: VATT, batches: Iterable[Batch], device: torch.device) -> tuple[float, float]:
    """Seconds of a pass over all clips, and of waiting for batches in it. The embeddings arrive on the CPU, so all
    work is done then. Raises ValueError if a clip could not be read."""
    waited = 0.0

    def clocked() -> Iterator[Batch]:
        nonlocal waited
        source = iter(batches)
        while True:
            began = time.perf_counter()
            batch = next(source, None)
            waited += time.perf_counter() - began
            if batch is None:
                return
            if batch["skipped"]:
                raise ValueError(f"a clip could not be read: {batch['skipped'][0]}")
            yield batch

    began = time.perf_counter()
    extract(model, clocked(), device)
    return time.perf_counter() - began, waited
