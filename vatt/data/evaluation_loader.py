"""Batches for evaluation: each clip once, in order, without augmentation.

``eval_batches`` reads all modalities for retrieval, ``view_batches`` several views of one modality for classification.
Clips that cannot be decoded are in ``skipped`` alone. A batch is valid as long as it is held.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace

import torch

from vatt.clip import InputConfig
from vatt.data.clips import Clip, check_packing
from vatt.data.config import DataConfig
from vatt.data.decode import MediaError
from vatt.data.loader import AHEAD, Batch
from vatt.data.samples import Layout, Modality, PretrainReader, Views, evaluation_windows, expect_windows
from vatt.data.skipped import Record, skipped_clip
from vatt.data.slots import NoRoom, fit_prefetch
from vatt.data.tokenizer import Tokenizer
from vatt.data.workers import Filled, Plan, Pool, Rows, Work, patience, read_here
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


def _good(rows: Rows, bad: Sequence[bool], each: int) -> Rows:
    """Without the rows of clips that could not be read; ``each`` rows of a clip."""
    if not any(bad):
        return rows
    keep = ~torch.tensor(bad).repeat_interleave(each)
    return {name: x[keep] for name, x in rows.items()}


def _expect(clips: Sequence[Clip], number: int, spec: InputConfig, windows: int, modality: Modality = "video") -> None:
    """Begins to fetch what a later clip of shards needs."""
    if number < len(clips):
        with suppress(MediaError):  # told when it is read
            expect_windows(clips[number], spec, windows, sound=modality == "audio")


@dataclass(frozen=True)
class _Windows:
    """Clip by clip its windows; gives its query, or the record of why there are none."""

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

    def read(self, task: int, rows: Rows, lost: Mapping[int, str], begin: Callable[[int], None]) -> str | Record:
        _expect(self.clips, task + self.ahead, self.spec, self.windows)
        try:
            clip = self.clips[task]
            _refuse_lost(clip, lost)
            samples, query = evaluation_windows(clip, self.tokenizer, self.spec, self.config, self.windows)
        except MediaError as error:
            return skipped_clip("evaluation", error)
        for number, sample in enumerate(samples):
            for name, x in rows.items():
                x[number] = sample[name]
        return query


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

    A batch holds video (B * windows, T, S, S, 3) and audio (B * windows, L), the windows of a clip in a row, text
    (B, 1, W) of the query, the masks (B,), index (B,), and lists of B: captions (the queries), videos (str) and ranges
    (start and end of the clip, seconds or None).
    """
    check_packing(clips, spec)
    work = _Windows(clips, tokenizer, spec, config, windows)
    plan = Plan(work.layout(), windows, batch_size, len(clips))
    for number, (rows, answers) in enumerate(_batches(work, plan, config)):
        bad = [isinstance(answer, dict) for answer in answers]
        index = [task for task, failed in zip(plan.tasks_of(number), bad, strict=True) if not failed]
        batch: Batch = {"skipped": [answer for answer in answers if isinstance(answer, dict)]}
        batch["index"] = torch.tensor(index, dtype=torch.int64)
        batch["captions"] = [answer for answer in answers if isinstance(answer, str)]
        batch["videos"] = [str(clips[task].video) for task in index]
        batch["ranges"] = [(clips[task].start, clips[task].end) for task in index]
        if index:
            rows = _good(rows, bad, windows)
            batch |= {name: rows[name] for name in ("video", "audio")}
            batch |= {name: rows[name][::windows] for name in ("text", "text_mask", "audio_mask")}
        del rows
        yield batch
        del batch


@dataclass(frozen=True)
class _Seen:
    """Clip by clip its views; gives nothing, or the record of why there are none."""

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

    def read(self, task: int, rows: Rows, lost: Mapping[int, str], begin: Callable[[int], None]) -> Record | None:
        number = self.numbers[task]
        if task + self.ahead < len(self.numbers):
            _expect(self.clips, self.numbers[task + self.ahead], self.spec, self.views.clips, self.modality)
        try:
            clip = self.clips[number]
            _refuse_lost(clip, lost)
            rows["x"][:] = self.views.read(clip, self.modality, self.spec, self.timeout)
        except MediaError as error:
            return {**skipped_clip("evaluation", error), "index": number}
        return None


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

    A batch holds index (B,) int64; x (B * V, ...), the views of a clip in a row (absent if B is 0); and skipped, a
    record {dataset, file, field, reason, index} of each clip that cannot be decoded.
    """
    check_packing(clips, spec, sound_only=modality == "audio")
    work = _Seen(clips, numbers, views, modality, spec, config.decode_timeout, AHEAD * max(1, config.workers))
    plan = Plan(work.layout(), views.count(modality), batch_size, len(numbers))
    for tasks, (rows, answers) in enumerate(_batches(work, plan, config)):
        bad = [answer is not None for answer in answers]
        index = [numbers[task] for task, failed in zip(plan.tasks_of(tasks), bad, strict=True) if not failed]
        batch: Batch = {"skipped": [answer for answer in answers if answer is not None]}
        batch["index"] = torch.tensor(index, dtype=torch.int64)
        if index:
            batch["x"] = _good(rows, bad, plan.rows)["x"]
        del rows
        yield batch
        del batch


def _refuse_lost(clip: Clip, lost: Mapping[int, str]) -> None:
    """Raises MediaError: a process has died of reading the clip."""
    if lost:
        raise MediaError(clip.video, "decode", next(iter(lost.values())))
