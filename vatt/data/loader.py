"""Batches for training and for evaluation.

What a training step reads is a pure function of (seed, step, rank, number of ranks). The position of the loader is
therefore the number of the step, and a resumed run sees the very same clips, windows and crops.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from vatt.clip import InputConfig
from vatt.data.config import DataConfig
from vatt.data.decode import MediaError
from vatt.data.manifest import Clip
from vatt.data.samples import Sample, evaluation_windows, training_sample
from vatt.data.schedule import Schedule
from vatt.data.tokenizer import Tokenizer
from vatt.errors import UserError

Batch = dict[str, Any]
Reader = Callable[[Clip, np.random.Generator], Sample]  # raises MediaError for a clip that cannot be decoded
_SUBSTITUTES = 20  # clips that are tried for one sample before the data set counts as unusable
_ALIVE = 600.0  # seconds without a batch after which a worker counts as dead


class NoUsableClip(UserError, RuntimeError):
    """So many clips of a data set failed in a row that it looks unusable. The message names files and reasons."""


@dataclass(frozen=True)
class Source:
    """One data set of the mixture."""

    name: str
    clips: Sequence[Clip]
    weight: float = 1.0


class _TrainSet(Dataset):
    """Samples by number. A clip that cannot be decoded is replaced by another one of its data set."""

    def __init__(self, sources: list[Source], read: Reader, seed: int) -> None:
        self.sources, self.read, self.seed = sources, read, seed
        self.schedule = Schedule([len(s.clips) for s in sources], [s.weight for s in sources], seed)

    def __getitem__(self, number: int) -> tuple[Sample, int, list[dict[str, Any]]]:
        pick = self.schedule.pick(number)
        source = self.sources[pick.source]
        skipped: list[dict[str, Any]] = []
        for attempt in range(_SUBSTITUTES):
            rng = np.random.default_rng([self.seed, 7, pick.source, pick.count, attempt])
            item = pick.item if attempt == 0 else int(rng.integers(len(source.clips)))
            try:
                return self.read(source.clips[item], rng), item, skipped
            except MediaError as error:
                skipped.append(bad_clip(source.name, error))
        reasons = "; ".join(sorted({f"{r['file']} ({r['field']}: {r['reason']})" for r in skipped})[:3])
        raise NoUsableClip(f"{source.name}: {len(skipped)} clips in a row could not be read, such as {reasons}")


def bad_clip(source: str, error: MediaError) -> dict[str, Any]:
    """The record of a clip that was passed over."""
    return {"dataset": source, "file": error.file, "field": error.field, "reason": error.reason}


def _collate(items: list[tuple[Sample, int, list[dict[str, Any]]]]) -> Batch:
    samples, indices, skipped = zip(*items, strict=True)
    batch: Batch = {key: torch.stack([sample[key] for sample in samples]) for key in samples[0]}
    batch["index"] = torch.tensor(indices)
    batch["skipped"] = [record for records in skipped for record in records]
    return batch


class _Steps:
    """Sample numbers of one rank, a batch a step, from ``start`` on and without end."""

    def __init__(self, start: int, batch_size: int, rank: int, world_size: int) -> None:
        self.start, self.batch_size, self.rank, self.world_size = start, batch_size, rank, world_size

    def __iter__(self) -> Iterator[list[int]]:
        step = self.start
        while True:
            first = (step * self.world_size + self.rank) * self.batch_size
            yield list(range(first, first + self.batch_size))
            step += 1


class ClipLoader:
    """Batches for the steps from ``start_step`` on, for ever.

    The ranks of a step share out one global batch, which is the same for any number of ranks that divides it.

    Args:
        sources: the data sets; all must have clips.
        read: makes the sample of a clip, in a worker.
        batch_size: samples a batch of this rank.
        seed: of the order, the windows and the augmentation.

    Attributes:
        waited: seconds that iteration has waited for batches so far.
    """

    def __init__(
        self,
        sources: list[Source],
        read: Reader,
        config: DataConfig,
        *,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
        start_step: int = 0,
    ) -> None:
        for source in sources:
            if not source.clips:
                raise ValueError(f"{source.name}: the data set has no clip to train on")
        self.waited = 0.0
        self._loader = DataLoader(
            _TrainSet(sources, read, seed),
            batch_sampler=_Steps(start_step, batch_size, rank, world_size),  # type: ignore[arg-type]
            collate_fn=_collate,
            generator=torch.Generator(),
            **worker_options(config),
        )
        self._batches: Iterator[Batch] | None = None

    def __iter__(self) -> Iterator[Batch]:
        self._batches = iter(self._loader)
        while self._batches is not None:
            before = time.monotonic()
            batch = next(self._batches)
            self.waited += time.monotonic() - before
            yield batch

    def close(self) -> None:
        """Ends the workers."""
        batches, self._batches = self._batches, None
        if batches is not None and hasattr(batches, "_shutdown_workers"):
            batches._shutdown_workers()


class TrainLoader(ClipLoader):
    """The batches of pretraining; see `ClipLoader`."""

    def __init__(
        self,
        sources: list[Source],
        tokenizer: Tokenizer,
        spec: InputConfig,
        config: DataConfig,
        **options: Any,
    ) -> None:
        """``options``: those of `ClipLoader` after ``config``."""
        read = _PretrainReader(tokenizer, spec, config)
        super().__init__(sources, read, config, **options)


@dataclass(frozen=True)
class _PretrainReader:
    tokenizer: Tokenizer
    spec: InputConfig
    config: DataConfig

    def __call__(self, clip: Clip, rng: np.random.Generator) -> Sample:
        return training_sample(clip, self.tokenizer, self.spec, self.config, rng)


def worker_options(config: DataConfig, most: int | None = None, ahead: int | None = None) -> dict[str, Any]:
    """The options of a DataLoader for ``config.workers`` processes, or ``most`` if that is fewer.

    ``ahead``: batches that each keeps ready, in place of ``config.prefetch``. A batch of an evaluation holds many views
    of a clip, nearly 1 GB at 320 pixels.
    """
    workers = config.workers if most is None else min(config.workers, most)
    options: dict[str, Any] = {"num_workers": workers, "pin_memory": torch.cuda.is_available()}
    if workers:
        options["worker_init_fn"] = _start_worker
        options |= {"prefetch_factor": ahead or config.prefetch, "timeout": max(_ALIVE, 2 * config.decode_timeout)}
    return options


def _start_worker(worker: int) -> None:
    """One thread, and deaf to the signals that a terminal or a launcher sends to all processes of a job.

    The job finishes its step and writes a checkpoint then, and a dead worker would raise in the middle of it. A worker
    ends when the loader is closed, or by itself when the job has gone.
    """
    torch.set_num_threads(1)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


class _EvalSet(Dataset):
    """Clips by number: their windows and query, or the record of why there are none."""

    def __init__(
        self, clips: Sequence[Clip], tokenizer: Tokenizer, spec: InputConfig, config: DataConfig, windows: int
    ) -> None:
        self.clips, self.tokenizer, self.spec, self.config, self.windows = clips, tokenizer, spec, config, windows

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> tuple[int, list[Sample], str] | dict[str, Any]:
        try:
            samples, query = evaluation_windows(self.clips[index], self.tokenizer, self.spec, self.config, self.windows)
            return index, samples, query
        except MediaError as error:
            return bad_clip("evaluation", error)


def _collate_eval(clips: Sequence[Clip], items: list[tuple[int, list[Sample], str] | dict[str, Any]]) -> Batch:
    good = [item for item in items if isinstance(item, tuple)]
    batch: Batch = {"skipped": [item for item in items if isinstance(item, dict)]}
    batch["index"] = torch.tensor([index for index, _, _ in good], dtype=torch.int64)
    batch["captions"] = [query for _, _, query in good]
    batch["videos"] = [str(clips[index].video) for index, _, _ in good]
    batch["ranges"] = [(clips[index].start, clips[index].end) for index, _, _ in good]
    if good:
        windows = [sample for _, samples, _ in good for sample in samples]
        first = [samples[0] for _, samples, _ in good]
        batch |= {key: torch.stack([sample[key] for sample in windows]) for key in ("video", "audio")}
        batch |= {key: torch.stack([sample[key] for sample in first]) for key in ("text", "text_mask", "audio_mask")}
    return batch


def eval_batches(
    clips: Sequence[Clip],
    tokenizer: Tokenizer,
    spec: InputConfig,
    config: DataConfig,
    *,
    batch_size: int,
    windows: int = 1,
) -> Iterator[Batch]:
    """Each clip once, in order, without augmentation; those that cannot be decoded are in ``skipped`` alone.

    A batch holds video (B * windows, T, S, S, 3) and audio (B * windows, L), the windows of a clip in a row, text
    (B, 1, W) of the query, the masks (B,), index (B,), and lists of B: captions (the queries), videos (str) and ranges
    (start and end of the clip, seconds or None).
    """
    options = worker_options(config, len(clips), ahead=1)
    loader = DataLoader(
        _EvalSet(clips, tokenizer, spec, config, windows),
        batch_size=batch_size,
        collate_fn=partial(_collate_eval, clips),
        generator=torch.Generator(),
        **options,
    )
    yield from loader
