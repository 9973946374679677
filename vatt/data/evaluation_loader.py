"""Batches for evaluation: each clip once, in order, without augmentation.

``eval_batches`` reads all modalities for retrieval, ``view_batches`` several views of one modality for classification.
Clips that cannot be decoded are in ``skipped`` alone. A batch is valid as long as it is held.

Windows of a clip that begin at the same time, as all of a short clip do, are read once and are one row of a batch:
``of_window`` or ``of_view`` says which row each of them is, so that a model computes it once.

Shapes: B clips, R rows, windows and views by those names.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from vatt.clip import InputConfig
from vatt.data.batches import Filled, Plan, Rows, Work, patience, read_here
from vatt.data.clips import Clip, check_packing
from vatt.data.config import DataConfig
from vatt.data.decode import MediaError, sound_digest
from vatt.data.loader import AHEAD, Batch
from vatt.data.reading import check_there, one_clip
from vatt.data.samples import Layout, Modality, PretrainReader, Sample, Views, evaluation_windows
from vatt.data.skipped import Record, skipped_clip
from vatt.data.slots import NoRoom, fit_prefetch
from vatt.data.tokenizer import Tokenizer
from vatt.data.windows import expect_windows
from vatt.data.workers import Pool
from vatt.distributed import ranks_here
from vatt.memory import free_memory

_log = logging.getLogger(__name__)
_READY = 1  # batches that are kept ready: one holds many views of a clip, nearly 1 GB at 320 pixels


def _batches(work: Work, plan: Plan, config: DataConfig) -> Iterator[Filled]:
    """Read by processes, or by this one where memory is short or there is nothing to read."""
    assert plan.total is not None
    workers = min(config.workers, plan.total)
    if workers:
        try:
            fit_prefetch(_READY, plan.batch_bytes, workers, ranks_here(), free_memory())
        except NoRoom as error:
            _log.warning("%s; this evaluation reads clips in the process itself", error)
            workers = 0
    if workers == 0:
        yield from read_here(work, plan)
        return
    alive = patience(config.decode_timeout, plan.rows)
    with closing(Pool(work, plan, ready=_READY, workers=workers, alive=alive)) as pool:
        yield from pool


def _distinct(rows: Rows, of_row: Sequence[Sequence[int] | None], each: int) -> tuple[Rows, Tensor]:
    """The rows that were written, and for each clip that could be read which of them are its windows or views, int64
    (B, each).

    Args:
        of_row: for each clip the rows among its ``each`` that hold its windows or views; None: it could not be read.
    """
    good_B = torch.tensor([number for number, found in enumerate(of_row) if found is not None])
    at_BV = torch.tensor([found for found in of_row if found is not None]) + each * good_B[:, None]
    kept_R, of_BV = at_BV.unique(return_inverse=True)
    if len(kept_R) == each * len(of_row):
        return rows, of_BV
    return {name: x[kept_R] for name, x in rows.items()}, of_BV


def _expect(clips: Sequence[Clip], number: int, spec: InputConfig, windows: int, modality: Modality = "video") -> None:
    """Begins to fetch what a later clip of shards needs."""
    if number < len(clips):
        with suppress(Exception):  # told when it is read
            expect_windows(clips[number], spec, windows, sound=modality == "audio")


@dataclass(frozen=True)
class _Read:
    """Of a clip: its query, which of its rows hold its windows, and the digest of its sound, empty without any."""

    query: str
    of_window: tuple[int, ...]
    sound: bytes


def _sound_of(samples: Sequence[Sample]) -> bytes:
    heard = [sample["audio"].numpy() for sample in samples if sample["audio_mask"]]
    return sound_digest(np.stack(heard)) if heard else b""


@dataclass(frozen=True)
class _Windows:
    """Clip by clip its windows; gives what was read of it, or the record of why it was not."""

    clips: Sequence[Clip]
    tokenizer: Tokenizer
    spec: InputConfig
    config: DataConfig
    windows: int

    @property
    def ahead(self) -> int:
        return AHEAD * max(1, self.config.workers)

    def layout(self) -> Layout:
        return PretrainReader(self.tokenizer, replace(self.spec, candidates=1), self.config).layout()

    def read(self, task: int, rows: Rows, lost: Mapping[int, str], begin: Callable[[int], None]) -> _Read | Record:
        _expect(self.clips, task + self.ahead, self.spec, self.windows)
        outs = [{name: x[number] for name, x in rows.items()} for number in range(self.windows)]
        try:
            with one_clip(self.clips, task, "evaluation") as clip:
                _refuse_lost(clip, lost)
                samples, query = evaluation_windows(clip, self.tokenizer, self.spec, self.config, self.windows, outs)
        except MediaError as error:
            check_there(self.clips, error.file, error.reason, "evaluation")
            return skipped_clip("evaluation", error)
        places = {id(sample): number for number, sample in enumerate(outs)}
        return _Read(query, tuple(places[id(sample)] for sample in samples), _sound_of(samples))


def eval_batches(
    clips: Sequence[Clip],
    tokenizer: Tokenizer,
    spec: InputConfig,
    config: DataConfig,
    *,
    batch_size: int,
    windows: int = 1,
) -> Iterator[Batch]:
    """Windows of all modalities, and a query, of each clip.

    A batch holds video (R, T, S, S, 3) and audio (R, L), of_window int64 (B, windows), the row of each window, and
    audio_mask (B, windows), whether it has sound; text (B, 1, W) of the query and text_mask (B,); index (B,); and lists
    of B: captions (the queries), videos (str), ranges (start and end of the clip, seconds or None) and sounds (bytes
    that are the same for clips of equal sound, empty for a silent one).
    """
    check_packing(clips, spec)
    work = _Windows(clips, tokenizer, spec, config, windows)
    plan = Plan(work.layout(), windows, batch_size, len(clips))
    for number, (rows, answers) in enumerate(_batches(work, plan, config)):
        found = {task: answer for task, answer in zip(plan.tasks_of(number), answers, strict=True) if _is_read(answer)}
        index = list(found)
        batch: Batch = {"skipped": [answer for answer in answers if not _is_read(answer)]}
        batch["index"] = torch.tensor(index, dtype=torch.int64)
        batch["captions"] = [answer.query for answer in found.values()]
        batch["sounds"] = [answer.sound for answer in found.values()]
        batch["videos"] = [str(clips[task].video) for task in index]
        batch["ranges"] = [(clips[task].start, clips[task].end) for task in index]
        if index:
            of_row = [answer.of_window if _is_read(answer) else None for answer in answers]
            rows, of_BV = _distinct(rows, of_row, windows)
            batch |= {"video": rows["video"], "audio": rows["audio"], "of_window": of_BV}
            batch["audio_mask"] = rows["audio_mask"][of_BV]
            batch |= {name: rows[name][of_BV[:, 0]] for name in ("text", "text_mask")}
        del rows
        yield batch
        del batch


def _is_read(answer: object) -> bool:
    return isinstance(answer, _Read)


@dataclass(frozen=True)
class _Seen:
    """Clip by clip its views; gives the row of each, or the record of why there are none."""

    clips: Sequence[Clip]
    numbers: Sequence[int]
    views: Views
    modality: Modality
    spec: InputConfig
    timeout: float
    ahead: int

    def layout(self) -> Layout:
        spec = self.spec
        if self.modality == "video":
            return {"x": ((spec.frames, spec.size, spec.size, 3), torch.uint8)}
        return {"x": ((spec.samples,), torch.float32)}

    def read(self, task: int, rows: Rows, lost: Mapping[int, str], begin: Callable[[int], None]) -> list[int] | Record:
        number = self.numbers[task]
        if task + self.ahead < len(self.numbers):
            _expect(self.clips, self.numbers[task + self.ahead], self.spec, self.views.clips, self.modality)
        try:
            with one_clip(self.clips, number, "evaluation") as clip:
                _refuse_lost(clip, lost)
                return self.views.read_into(clip, self.modality, self.spec, self.timeout, rows["x"])
        except MediaError as error:
            return {**skipped_clip("evaluation", error), "index": number}


def view_batches(
    clips: Sequence[Clip],
    numbers: Sequence[int],
    views: Views,
    modality: Modality,
    spec: InputConfig,
    config: DataConfig,
    *,
    batch_size: int,
) -> Iterator[Batch]:
    """The clips with these ``numbers``, each once, in order; a rank of several passes its own share of the numbers.

    A batch holds index (B,) int64; x (R, ...), and of_view int64 (B, V), the row of each view (both absent if B is 0);
    and skipped, a record {dataset, file, field, reason, index} of each clip that cannot be decoded.
    """
    check_packing(clips, spec, sound_only=modality == "audio")
    work = _Seen(clips, numbers, views, modality, spec, config.decode_timeout, AHEAD * max(1, config.workers))
    plan = Plan(work.layout(), views.count(modality), batch_size, len(numbers))
    for tasks, (rows, answers) in enumerate(_batches(work, plan, config)):
        of_row = [answer if isinstance(answer, list) else None for answer in answers]
        index = [numbers[task] for task, of in zip(plan.tasks_of(tasks), of_row, strict=True) if of is not None]
        batch: Batch = {"skipped": [answer for answer in answers if isinstance(answer, dict)]}
        batch["index"] = torch.tensor(index, dtype=torch.int64)
        if index:
            rows, batch["of_view"] = _distinct(rows, of_row, plan.rows)
            batch["x"] = rows["x"]
        del rows
        yield batch
        del batch


def _refuse_lost(clip: Clip, lost: Mapping[int, str]) -> None:
    """Raises MediaError: a process has died of reading the clip."""
    if lost:
        raise MediaError(clip.video, "decode", next(iter(lost.values())))
