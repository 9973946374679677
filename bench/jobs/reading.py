"""Reading clips of the built-in sample: for training (`loader`) and for embeddings (`embed`)."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.jobs.case import MOST, Row, Training, attempt, config_of, figures, model_case
from bench.jobs.options import DROPS, Options
from bench.measure.timing import Timing, summarise, synchronize
from vatt.data import Batch, Clip, DataConfig, Source, Tokenizer, TrainLoader, eval_batches, read_clips
from vatt.evaluation.retrieval import embed as extract
from vatt.kernels.timing import repeat
from vatt.models import VATT
from vatt.models.config import VATTConfig
from vatt.precision import type_of
from vatt.process import Message
from vatt.sample import build
from vatt.sample.writing import FPS, SECONDS, SIDE

READ, STEP = "read", "read and step"


@dataclass(frozen=True)
class Films:
    """Written clips, and a tokenizer of their captions."""

    manifest: Path
    clips: Sequence[Clip]
    tokenizer: Tokenizer

    @property
    def words(self) -> str:
        return f"; {len(self.clips)} files of {SECONDS:g} s, {SIDE} x {SIDE} at {FPS} frames/s, with sound and captions"


@contextmanager
def sample_films(count: int) -> Iterator[Films]:
    """Writes ``count`` clips of the built-in sample, all for training; they are gone when the block ends. Seconds for
    some dozens."""
    with tempfile.TemporaryDirectory(prefix="vatt-bench-") as folder:
        manifest = build(Path(folder) / "sample", train=count, val=0, say=lambda _: None)
        clips = read_clips(manifest).clips
        sentences = (caption.text for clip in clips for caption in clip.captions)
        yield Films(manifest, clips, Tokenizer.train(sentences))


def loader(options: Options) -> Iterator[Message]:
    """Reading alone and reading beside steps, for each preset and number of reading processes."""
    device = torch.device(options.device)
    with sample_films(options.amount.clips) as films:
        for model, batch in options.reading():
            config = config_of(model, DROPS[0], options.tiny)
            for workers in sorted({0, 1, max(1, options.cores - 1)}):
                for mode in (READ, STEP):
                    alone = dict(provider="ours", dtype="uint8", dropout=0.0) if mode == READ else {}
                    rest: Row = dict(mode=mode, more=films.words) | alone
                    about = model_case(options, "loader", model, batch, config, f" workers {workers}", **rest)
                    yield from attempt(about, device, _read, options, config, batch, workers, mode, films)


def _read(options: Options, config: VATTConfig, batch: int, workers: int, mode: str, films: Films) -> Row:
    device = torch.device(options.device)
    training = Training(config, device, options.backend) if mode == STEP else None
    # As in training: each reading process has a core, the model the others.
    beside = max(1, options.cores - workers) if mode == STEP else 1
    source, data = Source("sample", films.clips), DataConfig(workers=workers)
    reader = TrainLoader([source], films.tokenizer, config.input, data, batch_size=batch)
    torch.set_num_threads(beside)
    with closing(reader):
        timing, waited = reading_pace(reader, partial(_step, training, device), options.budget, options.amount.fewest)
    reads = "this process" if workers == 0 else f"{workers} process{'es' if workers > 1 else ''}"
    note = f"{reads} with one thread each read; {beside} thread{'s' if beside > 1 else ''} of PyTorch beside"
    return figures(timing, batch, "clips/s", wait_share=waited, note=note)


def reading_pace(
    reader: TrainLoader, consume: Callable[[Batch], Any], seconds: float, fewest: int
) -> tuple[Timing, float]:
    """Gives batches to ``consume`` for about ``seconds``, at least ``fewest`` of them after the first. Of a batch: the
    time from one to the next; and which share of it went on waiting for the loader, 0 to 1."""
    batches: Iterator[Batch] = iter(reader)
    consume(next(batches))
    before = reader.waited
    found = repeat(lambda: consume(next(batches)), seconds, fewest, MOST)
    return summarise(found, [0.0]), min(1.0, 1e3 * (reader.waited - before) / sum(found))


def _step(training: Training | None, device: torch.device, batch: Batch) -> None:
    """One update, if anything is trained, waited for: training reads the losses of each step."""
    if training is not None:
        training.step({name: x.to(device, non_blocking=True) for name, x in batch.items() if isinstance(x, Tensor)})
        synchronize(device)


def embed(options: Options) -> Iterator[Message]:
    """From file to vector, as evaluation does it: each preset with all its patches and one window a clip."""
    device = torch.device(options.device)
    with sample_films(options.amount.clips) as films:
        for model, batch in options.reading():
            config = config_of(model, 0, options.tiny)
            for workers in sorted({0, max(1, options.cores - 1)}):
                rest: Row = dict(mode="embed", more=films.words, dropout=0.0)
                about = model_case(options, "embed", model, batch, config, f" workers {workers}", **rest)
                yield from attempt(about, device, _embed, options, config, batch, workers, films)


def _embed(options: Options, config: VATTConfig, batch: int, workers: int, films: Films) -> Row:
    device, data = torch.device(options.device), DataConfig(workers=workers)
    torch.manual_seed(0)
    model = VATT(config, options.backend).to(device, type_of("auto", device))
    waits: list[float] = []

    def once() -> None:
        """A pass over all clips. The embeddings arrive on the CPU, so all work is done then."""
        batches = eval_batches(films.clips, films.tokenizer, config.input, data, batch_size=batch)
        extract(model, _clocked(batches, waits), device)

    torch.set_num_threads(max(1, options.cores - workers))
    once()  # compiles
    waits.clear()
    found = repeat(once, options.budget, options.amount.fewest, MOST)
    clips, waited = len(films.clips), min(1.0, 1e3 * sum(waits) / sum(found))
    note = f"ms of a batch, from passes over {clips} clips, the start of reading processes among them"
    timing = summarise([ms * batch / clips for ms in found], [0.0])
    return figures(timing, batch, "clips/s", wait_share=waited, note=note)


def _clocked(batches: Iterable[Batch], waits: list[float]) -> Iterator[Batch]:
    """Adds the seconds of waiting for each batch. Raises ValueError if a clip could not be read."""
    began = time.perf_counter()
    for batch in batches:
        waits.append(time.perf_counter() - began)
        if batch["skipped"]:
            raise ValueError(f"a clip could not be read: {batch['skipped'][0]}")
        yield batch
        began = time.perf_counter()
    waits.append(time.perf_counter() - began)  # the reading processes end
