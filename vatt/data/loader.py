"""Batches for training.

A sample is a pure function of (seed, step, place in the global batch): its clip, window, crop and colours, and what
replaces a clip that cannot be read. The position of the loader is therefore the number of the step, and a resumed run
sees the very same samples, on any number of ranks, reading processes and cores.

Several data sets are mixed at given weights by a fixed cycle that spreads each of them as evenly as can be. Within one
data set the clips come in a new random order for each pass.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch

from vatt.clip import InputConfig
from vatt.data.batches import Filled, Plan, Rows, patience, read_here
from vatt.data.clips import Clip, ClipTable, check_packing
from vatt.data.config import DataConfig
from vatt.data.decode import MediaError
from vatt.data.order import clip_order
from vatt.data.reading import check_there, one_clip
from vatt.data.samples import AugmentOn, Layout, PretrainReader, Sample
from vatt.data.skipped import Record, skipped_clip
from vatt.data.slots import PROCESS, fit_prefetch
from vatt.data.tokenizer import Tokenizer
from vatt.data.workers import Pool
from vatt.errors import UserError
from vatt.memory import free_memory

Batch = dict[str, Any]
_SUBSTITUTES = 20  # clips that are tried for one sample before the data set counts as unusable
_SLOW_SUBSTITUTES = 5  # the same, where they take longer than so many times data.decode_timeout
AHEAD = 8  # tasks of each process that a piece of a shard is fetched before it is read
_CYCLE = 1000  # samples after which the mixing repeats: weights are kept to a thousandth


class Reader(Protocol):
    """Makes samples of a clip, see `vatt.data.samples`. Whatever it raises makes a bad clip (`vatt.data.reading`)."""

    @property
    def spec(self) -> InputConfig: ...

    def layout(self) -> Layout: ...

    def __call__(self, clip: Clip, rng: np.random.Generator, out: Sample | None = None) -> Sample: ...

    def windows(
        self, clip: Clip, rngs: Sequence[np.random.Generator], outs: Sequence[Sample | None] | None = None
    ) -> list[Sample]: ...

    def expect(self, clip: Clip, rng: np.random.Generator) -> None: ...


class BatchError(UserError, ValueError):
    """A batch that cannot be shared out as the settings ask."""


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
    """Which clip a sample is, of data sets with ``sizes`` clips at ``weights`` (any positive numbers).

    ``groups`` and ``window``: as `clip_order` takes them, groups of each data set.
    """

    sizes: list[int]
    weights: list[float]
    seed: int
    groups: list[np.ndarray | None] = field(default_factory=list)
    window: int = 0
    _cycle: np.ndarray = field(init=False, repr=False)
    _before: np.ndarray = field(init=False, repr=False)
    _orders: dict[tuple[int, int], np.ndarray] = field(init=False, repr=False, default_factory=dict)

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
        """The order of the clips in one pass. Those of two passes are kept, for tasks are asked for ahead."""
        known = self._orders.get((source, epoch))
        if known is None:
            groups = self.groups[source] if self.groups else None
            known = clip_order(self.sizes[source], [self.seed, 11, source, epoch], groups, self.window)
            self._orders = {key: x for key, x in self._orders.items() if key[0] != source or abs(key[1] - epoch) == 1}
            self._orders[source, epoch] = known
        return known


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


class _Samples:
    """What the reading processes do: task after task, a clip and ``windows`` samples of it. A clip that cannot be read
    is replaced by another one of its data set."""

    def __init__(
        self, sources: list[Source], reader: Reader, config: DataConfig, seed: int, number: Callable[[int], int]
    ) -> None:
        """``number``: of a task over all steps and ranks, from its number on this rank."""
        self.sources, self.reader, self.seed, self.number = sources, reader, seed, number
        self.patience = _SLOW_SUBSTITUTES * config.decode_timeout
        self.windows, self.ahead = config.windows_per_open, AHEAD * max(1, config.workers)
        sizes, weights = [len(source.clips) for source in sources], [source.weight for source in sources]
        groups = [source.clips.groups() if isinstance(source.clips, ClipTable) else None for source in sources]
        self.packed = any(numbers is not None for numbers in groups)
        self.schedule = Schedule(sizes, weights, seed, groups, config.shuffle_shards)

    def _expect(self, task: int) -> None:
        """Begins to fetch what a later task reads of shards: with as many processes, another one comes to it soon."""
        if not self.packed:
            return
        pick = self.schedule.pick(self.number(task))
        clips = self.sources[pick.source].clips
        if isinstance(clips, ClipTable):
            with suppress(Exception):  # told when it is read
                clip = clips[pick.item]
                for window in range(self.windows):
                    self.reader.expect(clip, self._rng(pick, 0, window))

    def read(self, task: int, rows: Rows, lost: Mapping[int, str], begin: Callable[[int], None]) -> list[Record] | None:
        """The records of the clips that could not be read, if there are any."""
        self._expect(task + self.ahead)
        pick = self.schedule.pick(self.number(task))
        source = self.sources[pick.source]
        outs = [{name: x[number] for name, x in rows.items() if name != "index"} for number in range(self.windows)]
        skipped: list[Record] = []
        began = time.monotonic()
        for attempt in range(_SUBSTITUTES):
            if attempt >= _SLOW_SUBSTITUTES and time.monotonic() - began > self.patience:
                break  # a server that is gone, or a set of files that hang
            begin(attempt)
            rngs = [self._rng(pick, attempt, number) for number in range(self.windows)]
            item = pick.item if attempt == 0 else int(rngs[0].integers(len(source.clips)))
            try:
                with one_clip(source.clips, item, source.name) as clip:
                    if attempt in lost:
                        raise MediaError(clip.video, "decode", lost[attempt])
                    if self.windows == 1:
                        self.reader(clip, rngs[0], outs[0])
                    else:
                        self.reader.windows(clip, rngs, outs)
            except MediaError as error:
                check_there(source.clips, error.file, error.reason, source.name)
                skipped.append(skipped_clip(source.name, error))
                continue
            rows["index"].fill_(item)
            return skipped or None
        reasons = "; ".join(sorted({f"{r['file']} ({r['field']}: {r['reason']})" for r in skipped})[:3])
        raise NoUsableClip(f"{source.name}: {len(skipped)} clips in a row could not be read, such as {reasons}")

    def _rng(self, pick: Pick, attempt: int, window: int) -> np.random.Generator:
        own = [window] if window else []
        return np.random.default_rng([self.seed, 7, pick.source, pick.count, attempt, *own])


class ClipLoader:
    """Batches for the steps from ``start_step`` on, without end; or the ``parts`` of each, in order.

    The ranks split one global batch of each step, which is the same for any number of ranks and parts that divides it.
    A batch (or a part) is valid as long as it is held. It lies in memory that the loader uses again when it is not held
    any more: a loop should drop a batch (``del batch``) before it asks for the next one, and who copies one to a GPU
    without waiting must hold it until the copy is done.

    Args:
        sources: the data sets; all must have clips.
        read: makes the samples of a clip, in a reading process.
        batch_size: samples of a batch on this rank.
        seed: of the order, the windows and the augmentation.
        node_ranks: ranks on this machine, which share its memory.
        parts: in which a batch comes. All parts of a step may be held at once.

    Attributes:
        waited: seconds that iteration has waited for batches so far.
        prefetch: batches, or parts, that are kept ready: ``config.prefetch``, or as many as there is memory for.
        notes: what a user should know of it.
        clips: number of those that there are, of all data sets.
        interrupted: looked at while a batch is waited for, if set before iteration; once it is true, that raises
            `Interrupted`.

    Raises:
        ValueError: a data set without clips. ManifestError: one that was packed for other windows. BatchError: a batch
        that ``data.windows_per_open`` does not divide. NoRoom: not even two batches fit into memory.
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
        node_ranks: int = 1,
        parts: int = 1,
    ) -> None:
        for source in sources:
            if not source.clips:
                raise ValueError(f"{source.name}: the data set has no clip to train on")
            check_packing(source.clips, read.spec, sound_only=getattr(read, "modality", "") == "audio")
        windows = config.windows_per_open
        if batch_size % parts:
            raise BatchError(f"the {batch_size} clips of a rank's batch cannot be shared out to {parts} parts")
        if batch_size // parts % windows:
            of = "batch" if parts == 1 else f"batch in each of {parts} parts"
            raise BatchError(
                f"data.windows_per_open: {windows} windows of a clip do not divide the {batch_size // parts} clips of "
                f"a rank's {of} (run.batch_size over the ranks)"
            )
        self.waited, self.workers, self.prefetch = 0.0, config.workers, config.prefetch
        self.notes: list[str] = []
        self.clips = sum(len(source.clips) for source in sources)
        self.interrupted: Callable[[], bool] = lambda: False
        tasks = batch_size // windows

        def number(task: int) -> int:
            step, place = divmod(task, tasks)
            return ((start_step + step) * world_size + rank) * tasks + place

        self._alive = patience(config.decode_timeout, windows)
        self._parts = parts
        self._plan = Plan({**read.layout(), "index": ((), torch.int64)}, windows, tasks // parts)
        self._work = _Samples(sources, read, config, seed, number)
        if self.workers:
            free = free_memory()
            size = self._plan.batch_bytes
            self.prefetch, note = fit_prefetch(config.prefetch, size, self.workers, node_ranks, free, parts)
            self.notes += [note] if note else []
        self._pool: Pool | None = None

    @property
    def memory(self) -> int:
        """Bytes that are held at most: batches in use and ready, and what the reading processes need themselves."""
        if not self.workers:
            return self._plan.batch_bytes * self._parts
        return self._plan.batch_bytes * (self.prefetch + self._parts) + self.workers * PROCESS

    def __iter__(self) -> Iterator[Batch]:
        self.close()
        batches: Iterator[Filled] = read_here(self._work, self._plan, self.interrupted)
        if self.workers:
            batches = self._pool = Pool(
                self._work,
                self._plan,
                ready=self.prefetch,
                in_use=self._parts,
                workers=self.workers,
                alive=self._alive,
                interrupted=self.interrupted,
            )
            self.notes += [self._pool.note] if self._pool.note else []
        return _Batches(self, batches)

    def close(self) -> None:
        """Ends the reading processes."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()


class _Batches:
    """An iterator that keeps no batch, as the frame of a generator would."""

    def __init__(self, loader: ClipLoader, batches: Iterator[Filled]) -> None:
        self._loader, self._batches = loader, batches

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        before = time.monotonic()
        tensors, answers = next(self._batches)
        self._loader.waited += time.monotonic() - before
        return {**tensors, "skipped": [record for records in answers for record in records or ()]}


class TrainLoader(ClipLoader):
    """The batches of pretraining; see `ClipLoader`."""

    def __init__(
        self,
        sources: list[Source],
        tokenizer: Tokenizer,
        spec: InputConfig,
        config: DataConfig,
        *,
        augment_on: AugmentOn = "cpu",
        **options: Any,
    ) -> None:
        """``augment_on``: see `PretrainReader`; ``options``: those of `ClipLoader` after ``config``."""
        super().__init__(sources, PretrainReader(tokenizer, spec, config, augment_on), config, **options)
