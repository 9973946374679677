"""Batches for training.

What a training step reads is a pure function of (seed, step, rank, number of ranks). The position of the loader is
therefore the number of the step, and a resumed run sees the very same clips, windows and crops.

Several data sets are mixed at given weights by a fixed cycle that spreads each of them as evenly as can be. Within one
data set the clips come in a new random order for each pass.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from vatt.clip import InputConfig
from vatt.data.clips import Clip
from vatt.data.config import DataConfig
from vatt.data.decode import MediaError
from vatt.data.samples import PretrainReader, Sample
from vatt.data.skipped import Record, skipped_clip
from vatt.data.tokenizer import Tokenizer
from vatt.errors import UserError

Batch = dict[str, Any]
Reader = Callable[[Clip, np.random.Generator], Sample]  # raises MediaError for a clip that cannot be decoded
_SUBSTITUTES = 20  # clips that are tried for one sample before the data set counts as unusable
_CYCLE = 1000  # samples after which the mixing repeats: weights are kept to a thousandth
_ALIVE = 600.0  # seconds without a batch after which a worker counts as dead


class NoUsableClip(UserError, RuntimeError):
    """So many clips of a data set failed in a row that it looks unusable. The message names files and reasons."""


@dataclass(frozen=True)
class Source:
    """One data set of the mixture."""

    name: str
    clips: Sequence[Clip]
    weight: float = 1.0


@dataclass(frozen=True)
class Pick:
    """Sample ``count`` of data set ``source``: its clip ``item``."""

    source: int
    count: int
    item: int


@dataclass
class Schedule:
    """Which clip a sample is, of data sets with ``sizes`` clips at ``weights`` (any positive numbers)."""

    sizes: list[int]
    weights: list[float]
    seed: int
    _cycle: np.ndarray = field(init=False, repr=False)
    _before: np.ndarray = field(init=False, repr=False)
    _orders: dict[int, tuple[int, np.ndarray]] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._cycle = _mixing_cycle(self.weights)
        once = self._cycle[:, None] == np.arange(len(self.sizes))
        self._before = np.concatenate([np.zeros((1, len(self.sizes)), int), once.cumsum(0)])

    def pick(self, number: int) -> Pick:
        """The clip of the sample with this number, counted from 0 over all steps and ranks."""
        cycles, position = divmod(number, len(self._cycle))
        source = int(self._cycle[position])
        count = int(cycles * self._before[-1, source] + self._before[position, source])
        epoch, index = divmod(count, self.sizes[source])
        return Pick(source, count, int(self._order(source, epoch)[index]))

    def _order(self, source: int, epoch: int) -> np.ndarray:
        """The order of the clips in one pass; the last one asked for is kept."""
        known = self._orders.get(source)
        if known is None or known[0] != epoch:
            order = np.random.default_rng([self.seed, 11, source, epoch]).permutation(self.sizes[source])
            self._orders[source] = known = (epoch, order)
        return known[1]


def _mixing_cycle(weights: list[float]) -> np.ndarray:
    """Data set numbers in proportion to the weights: at each position, the one that lags most behind its share."""
    if len(weights) == 1:
        return np.zeros(1, int)
    share = np.asarray(weights, float) / sum(weights)
    credit = np.zeros(len(weights))
    cycle = np.empty(_CYCLE, int)
    for position in range(_CYCLE):
        credit += share
        cycle[position] = np.argmax(credit)
        credit[cycle[position]] -= 1
    return cycle


class _TrainSet(Dataset):
    """Samples by number. A clip that cannot be decoded is replaced by another one of its data set."""

    def __init__(self, sources: list[Source], read: Reader, seed: int) -> None:
        self.sources, self.read, self.seed = sources, read, seed
        self.schedule = Schedule([len(s.clips) for s in sources], [s.weight for s in sources], seed)

    def __getitem__(self, number: int) -> tuple[Sample, int, list[Record]]:
        pick = self.schedule.pick(number)
        source = self.sources[pick.source]
        skipped: list[Record] = []
        for attempt in range(_SUBSTITUTES):
            rng = np.random.default_rng([self.seed, 7, pick.source, pick.count, attempt])
            item = pick.item if attempt == 0 else int(rng.integers(len(source.clips)))
            try:
                return self.read(source.clips[item], rng), item, skipped
            except MediaError as error:
                skipped.append(skipped_clip(source.name, error))
        reasons = "; ".join(sorted({f"{r['file']} ({r['field']}: {r['reason']})" for r in skipped})[:3])
        raise NoUsableClip(f"{source.name}: {len(skipped)} clips in a row could not be read, such as {reasons}")


def _collate(items: list[tuple[Sample, int, list[Record]]]) -> Batch:
    samples, indices, skipped = zip(*items, strict=True)
    batch: Batch = {key: torch.stack([sample[key] for sample in samples]) for key in samples[0]}
    batch["index"] = torch.tensor(indices)
    batch["skipped"] = [record for records in skipped for record in records]
    return batch


class _Steps:
    """Sample numbers of one rank, one batch per step, from ``start`` on and without end."""

    def __init__(self, start: int, batch_size: int, rank: int, world_size: int) -> None:
        self.start, self.batch_size, self.rank, self.world_size = start, batch_size, rank, world_size

    def __iter__(self) -> Iterator[list[int]]:
        step = self.start
        while True:
            first = (step * self.world_size + self.rank) * self.batch_size
            yield list(range(first, first + self.batch_size))
            step += 1


class ClipLoader:
    """Batches for the steps from ``start_step`` on, without end.

    The ranks split one global batch of each step, which is the same for any number of ranks that divides it.

    Args:
        sources: the data sets; all must have clips.
        read: makes the sample of a clip, in a worker.
        batch_size: samples of a batch on this rank.
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
            batch_sampler=_Steps(start_step, batch_size, rank, world_size),
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
        super().__init__(sources, PretrainReader(tokenizer, spec, config), config, **options)


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
    """One thread, and the signals that a terminal or a launcher sends to all processes of a job are ignored.

    The job finishes its step and writes a checkpoint then, and a dead worker would raise in the middle of it. A worker
    ends when the loader is closed, or by itself when the job has gone.
    """
    torch.set_num_threads(1)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
