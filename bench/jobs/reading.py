"""Reading clips: for training (`loader`), for embeddings (`embed`), and beside bare decoding (`decode`)."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from torch import Tensor

from bench.jobs.case import MOST, Row, Training, attempt, case, config_of, figures, model_case
from bench.jobs.options import DROPS, Options
from bench.measure.timing import Timing, summarise, synchronize
from vatt.clip import InputConfig
from vatt.data import Batch, Clip, DataConfig, Source, Tokenizer, TrainLoader, eval_batches, read_clips
from vatt.data.captions import Caption
from vatt.data.samples import PretrainReader
from vatt.evaluation.retrieval import embed as extract
from vatt.kernels.timing import repeat
from vatt.models import VATT
from vatt.models.config import VATTConfig
from vatt.precision import type_of
from vatt.process import Message
from vatt.sample import build
from vatt.sample.encode import write_mp4
from vatt.sample.writing import FPS, SECONDS, SIDE

READ, STEP = "read", "read and step"


@dataclass(frozen=True)
class Films:
    """Written clips, and a tokenizer of their captions."""

    manifest: Path
    clips: list[Clip]
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


# Of decode: width, height, frames a second of the file, side of the model's picture; and seconds, keyframes, sound.
FILMS = ((640, 360, 30, 224), (320, 240, 30, 224), (112, 112, 15, 64))
LENGTH, GOP, RATE = 10.0, 30, 48000


def decode(options: Options) -> Iterator[Message]:
    """Reading on one core: the loader's whole path against bare PyAV decoding of the same windows.

    Bare decoding opens the file, seeks to the same keyframe and decodes the frames and the sound of the window; nothing
    is scaled, converted or resampled. Ours adds the crop, scaling to the model's size, RGB, colour changes, resampling,
    noise and the words. The ratio says what our part costs. Both are timed in turns, in one process.
    """
    for width, height, fps, side in FILMS[-1:] if options.tiny else FILMS:
        name, shape = f"{width}x{height}@{fps} to {side}", f"{LENGTH:g} s of {width} x {height} at {fps} frames/s"
        rest: Row = dict(shape=f"{shape}, with sound", dtype="uint8", select={})
        about = case(options, "decode", name, mode=READ, provider="ours", **rest)
        yield from attempt(about, torch.device("cpu"), _decode, options, width, height, fps, side)


def _decode(options: Options, width: int, height: int, fps: int, side: int) -> Row:
    spec, count, words = InputConfig(size=side), options.amount.clips // 2, "a rising tone over waves"
    read = PretrainReader(Tokenizer.train([words]), spec, DataConfig())
    starts = np.random.default_rng(0).uniform(0, LENGTH - spec.seconds, count)
    plain: list[float] = []
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="vatt-bench-") as folder:
        path = Path(folder) / "film.mp4"
        make_video(path, width, height, fps)
        clip = Clip(path, captions=(Caption(words, 0.0, LENGTH),))

        def ours() -> None:
            for number in range(count):
                read(clip, np.random.default_rng(number))

        def bare() -> None:
            for start in starts:
                decode_bare(path, float(start), spec)

        ours()  # opens what is opened once
        bare()
        before = lambda: plain.extend(repeat(bare, 0, 1))  # noqa: E731
        found = repeat(ours, options.budget / 2, options.amount.fewest, MOST, before)
    timing, each = summarise([ms / count for ms in found], [0.0]), 1e3 * count / statistics.median(plain)
    ratio = statistics.median(b / a for a, b in zip(found, plain, strict=True))
    note = f"{ratio:.3f} of bare decoding, which reads {each:.1f} clips/s; "
    note += f"medians of {len(found)} rounds of {count} clips in turns, one thread"
    return figures(timing, 1, "clips/s", note=note)


def make_video(path: Path, width: int, height: int, fps: int) -> None:
    """A moving texture with some noise, as hard to decode as filmed material, and a rising tone."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    frames = np.empty((round(LENGTH * fps), height, width, 3), np.uint8)
    for number in range(len(frames)):
        shift = 40 * number / fps
        wave = np.sin((x + shift) / 17) + np.sin((y - 0.7 * shift) / 23) + np.sin((x + y + shift) / 31)
        grain = rng.normal(0, 3, (height, width))
        frames[number] = np.clip(127 + 35 * wave + grain, 0, 255)[..., None] * np.array([1, 0.8, 0.6])
    time_L = np.arange(round(LENGTH * RATE)) / RATE
    sound = 0.4 * np.sin(2 * np.pi * (200 + 30 * time_L) * time_L)
    write_mp4(path, frames, fps, sound.astype(np.float32), RATE, GOP)


def decode_bare(path: Path, start: float, spec: InputConfig) -> None:
    """Decodes the frames and the sound of one window and drops them."""
    for kind in ("video", "audio"):
        with av.open(str(path)) as container:
            stream: Any = container.streams.get({kind: 0})[0]
            stream.thread_count = 1
            container.seek(int(start / stream.time_base), stream=stream, backward=True)
            frame: Any
            for frame in container.decode(stream):
                if frame.time >= start + spec.seconds:
                    break
