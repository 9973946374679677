"""``vatt embed``: all items of a folder, manifest or file of sentences through a model, in batches, to one file.

A job that was stopped continues where it was.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from vatt.data.clips import Clip, ManifestError
from vatt.data.config import DataConfig
from vatt.data.manifest import MEDIA, media_files, passed_over, read_clips
from vatt.data.reading import check_there
from vatt.data.shards.dataset import is_shards
from vatt.data.splits import SHARE, choose_split, records_of
from vatt.errors import printable
from vatt.inference.api import VATT
from vatt.inference.embed import Embedded, clip_of, embed_clips, embed_sentences, tell_unknown
from vatt.inference.output import (
    EmbedError,
    Item,
    Parts,
    check_output,
    check_settings,
    open_parts,
    read_json,
    write_output,
)
from vatt.inference.shares import ALL, Joined, Share, counts_of, finish
from vatt.inference.spaces import DEFAULTS, Modality, output_name
from vatt.precision import type_of
from vatt.weights.folder import CONFIG, WEIGHTS, held_out_share, model_folder

_log = logging.getLogger(__name__)

_KINDS = {"video": ("video",), "audio": ("audio", "video")}  # of files that are looked for in a folder
_ROWS, _SECONDS = 512, 20.0  # a part is written when it has so many items or is so old
Progress = Callable[[int, int, int], object]  # items done, items in all, faults so far


@dataclass(frozen=True)
class EmbedJob:
    """What is asked for; the fields are the options of ``vatt embed``."""

    source: str | Path
    model: Path
    out: Path
    modality: Modality = "video"
    space: str | None = None
    windows: int = 4
    batch_size: int = 8
    workers: int = 2
    device: str = "cpu"
    vocabulary: Path | None = None
    precision: str = "auto"
    shard_of: Share = ALL  # the items of one of several independent jobs
    join: bool = False  # puts the parts of those jobs together
    split: str | None = None  # of a manifest or shards: only the clips of this split; None: all

    def __post_init__(self) -> None:
        for name, least, most in (("windows", 1, 1000), ("batch_size", 1, 1_000_000), ("workers", 0, 1024)):
            if not least <= (value := getattr(self, name)) <= most:
                limit = f"{least} or more" if value < least else f"{most:,} or less"
                raise EmbedError(f"{name}: must be {limit}, got {value}")
        if self.join and self.shard_of.count > 1:
            raise EmbedError("--join: takes the parts of all jobs; leave --shard-of out")


@dataclass(frozen=True)
class EmbedResult:
    """How it ended: rows and faults of the result, items of this start, seconds that they took, and parts done again.

    ``items`` is 0 if the result was there before.
    """

    rows: int
    faults: int
    items: int
    seconds: float
    redone: list[str]


def embed_dataset(job: EmbedJob, progress: Progress = lambda done, total, faults: None) -> EmbedResult:
    """Embeds what has not been embedded by an earlier start with the same settings, and writes the result.

    With ``shard_of`` it embeds that share and leaves its parts beside the result; with ``join`` it embeds nothing, and
    writes the result from the parts of all shares.

    Raises:
        EmbedError: settings that differ from those of an earlier start, or a result that cannot be written, or shares
            that are not done.
        ManifestError, PretrainedError, SpaceError, TextError: the source, the model, the space or the words.
    """
    check_output(job.out)
    source = read_items(job.source, job.modality, job.split, held_out_share(job.model))
    model = VATT.from_pretrained(job.model, vocabulary=job.vocabulary)
    device = _device(job.device)
    try:
        model.to(device, type_of(job.precision, device))
    except RuntimeError as error:
        raise EmbedError(f"device: {job.device}: {str(error).splitlines()[0]}") from error
    output_name(model.config, job.modality, job.space)
    if job.modality == "text":
        embed_sentences(model, model.tokenizer, [])  # says at once that the words are not known
    settings = settings_of(job, source)
    if (finished := _finished(job.out, settings)) is not None:
        return finished
    places = {"source": str(job.source), "model": str(job.model)}
    if job.join:
        return _join(job, source, settings, places)
    share, folder = job.shard_of, job.shard_of.parts(job.out)
    numbers = share.of(len(source.items))
    with open_parts(folder, settings) as parts:
        if share.count > 1 and not parts.unreadable and (counts := counts_of(folder)) is not None:
            return EmbedResult(counts[0] - counts[1], counts[1], 0, 0.0, [])
        begun, before = time.monotonic(), len(parts.done)
        todo = [number for number in numbers if number not in parts.done]
        _embed(_checked(_batches(model, source, todo, job), source, job), parts, len(numbers), progress)
        seconds, done = time.monotonic() - begun, len(numbers) - before
        if share.count > 1:
            faults = sum(len(part.skipped) for part in parts.read())
            finish(folder, len(numbers), faults)
            return EmbedResult(len(numbers) - faults, faults, done, seconds, parts.unreadable)
        rows, faults = write_output(job.out, parts, source.items, source.skipped, settings, places)
        parts.remove()
        return EmbedResult(rows, faults, done, seconds, parts.unreadable)


def _join(job: EmbedJob, source: ItemList, settings: dict[str, Any], places: dict[str, str]) -> EmbedResult:
    with ExitStack() as stack:
        parts = Joined(job.out, settings, stack)
        if lost := len(source.items) - len(parts.done):
            raise EmbedError(f"{job.out}: the parts lack {lost} items; remove them, and run the jobs again")
        rows, faults = write_output(job.out, parts, source.items, source.skipped, settings, places)
        parts.remove()
        return EmbedResult(rows, faults, 0, 0.0, [])


def settings_of(job: EmbedJob, source: ItemList) -> dict[str, Any]:
    """All that the numbers depend on, ready for JSON. Batches, processes and where it runs are not among it."""
    folder = model_folder(job.model)
    path = Path(job.source)
    base = path if path.is_dir() or is_shards(job.source) else path.parent
    found: dict[str, Any] = {
        "items": f"{len(source.items)} ({source.digest(base)})",
        "weights": _digest(folder / CONFIG, folder / WEIGHTS),
        "modality": job.modality,
        "space": job.space or DEFAULTS[job.modality],
        "format": job.out.suffix,
        "precision": str(type_of(job.precision, job.device)),
    }
    if job.modality == "text":
        found["words"] = _digest(job.vocabulary or folder / "tokenizer.json")
    else:
        found["windows"] = job.windows
    return found


def _batches(model: VATT, source: ItemList, todo: list[int], job: EmbedJob) -> Iterator[Embedded]:
    if job.modality != "text":
        yield from embed_clips(
            model,
            source.clips,
            job.modality,
            space=job.space,
            windows=job.windows,
            numbers=todo,
            config=DataConfig(workers=job.workers),
            batch_size=job.batch_size,
        )
        return
    for first in range(0, len(todo), job.batch_size):
        numbers = todo[first : first + job.batch_size]
        sentences = [source.items[number].text or "" for number in numbers]
        yield embed_sentences(model, model.tokenizer, sentences, space=job.space, numbers=numbers)


def _checked(batches: Iterator[Embedded], source: ItemList, job: EmbedJob) -> Iterator[Embedded]:
    """Raises Vanished: the files have gone, as far as a batch tells. It is not written then, or its items would be
    faults of a result that looks complete."""
    for batch in batches:
        for record in batch.skipped if source.clips else ():
            check_there(source.clips, record["file"], record["reason"], str(job.source))
        yield batch


def _embed(batches: Iterator[Embedded], parts: Parts, total: int, progress: Progress) -> None:
    """Writes the batches as parts; also what is done when it is interrupted."""
    waiting: list[Embedded] = []
    faults, written = sum(len(part.skipped) for part in parts.read()), time.monotonic()
    done, unknown = len(parts.done), dict[str, None]()
    try:
        for batch in batches:
            waiting.append(batch)
            unknown |= dict.fromkeys(batch.unknown)
            done, faults = done + len(batch.numbers) + len(batch.skipped), faults + len(batch.skipped)
            progress(done, total, faults)
            if sum(len(b.numbers) for b in waiting) >= _ROWS or time.monotonic() - written > _SECONDS:
                parts.write(waiting)
                waiting, written = [], time.monotonic()
    finally:
        parts.write(waiting)
        tell_unknown("text", unknown)


def _finished(out: Path, settings: dict[str, Any]) -> EmbedResult | None:
    """What there is to say of a result that is there already, or None if there is none.

    Raises:
        EmbedError: a file that this job did not write, or one with other settings.
    """
    beside = out.with_suffix(".json")
    if not beside.exists() and not out.exists():
        return None
    found = read_json(beside) if beside.exists() else None
    if not isinstance(found, dict) or "settings" not in found:
        raise EmbedError(f"{beside if beside.exists() else out}: is there, but not from this job; name another --out")
    check_settings(found["settings"], settings, out)
    return EmbedResult(found["n"], found["faults"], 0, 0.0, []) if out.exists() else None


def _digest(*files: Path) -> str:
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise EmbedError(f"device: {name!r} is no device of PyTorch, such as cpu or cuda") from error
    if device.type == "meta":
        raise EmbedError("device: meta: computes nothing; name cpu or cuda")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise EmbedError(f"device: {name}: PyTorch sees no CUDA device here")
    return device


@dataclass
class ItemList:
    """The items of a data set, the clips of the same numbers (none of sentences), and what was left out of them."""

    items: list[Item]
    clips: Sequence[Clip] = ()
    skipped: list[dict[str, Any]] = field(default_factory=list)

    def digest(self, base: Path) -> str:
        """16 hexadecimal digits that change with any item; files are named from ``base`` on, so that both may move."""
        rows = [[os.path.relpath(item.file, base), item.start, item.end, item.text] for item in self.items]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]


def read_items(source: str | Path, modality: Modality, split: str | None = None, share: float = SHARE) -> ItemList:
    """The items of a folder (searched through), a manifest, shards (a folder or a URL), or, for text, a
    .txt (its lines).

    For video and audio each row of a manifest is an item; audio takes the sound of videos, too. For text it is each
    caption of each video, whether from the manifest or from files beside the videos.

    Args:
        split: only clips of this split, see `vatt.data.splits`; None: all.
        share: of the videos that is val, where no split is named.

    Raises:
        ManifestError: it cannot be read, or holds no item, or none of this split.
    """
    path = Path(source)
    if modality == "text":
        if path.suffix.lower() == ".txt" and split is not None:
            raise ManifestError(f"{source}: lines of text are in no split; leave --split out")
        found = _lines(path) if path.suffix.lower() == ".txt" else _captions(source, split, share)
    elif path.is_dir() and not is_shards(source):
        others = Counter[str]()
        files = [clip_of(file) for file in media_files(path, _KINDS[modality], others)]
        _tell(source, filter(None, (passed_over(others),)))
        root = path.resolve()
        files = [replace(clip, name=clip.video.relative_to(root).as_posix()) for clip in files]
        clips = choose_split(files, split, str(source), share) if files else files
        found = ItemList([_item(clip) for clip in clips], clips)
    else:
        read = read_clips(source)
        _tell(source, read.notes)
        clips = choose_split(read.clips, split, str(source), share)
        missing = [record for record in read.skipped if record["field"] in MEDIA]
        found = ItemList([_item(clip) for clip in clips], clips, records_of(missing, split))
    if not found.items:
        what = {"video": "no video", "audio": "no sound file and no video", "text": "no sentence"}[modality]
        raise ManifestError(f"{source}: holds {what}")
    return found


def _tell(source: str | Path, notes: Iterable[str]) -> None:
    for note in notes:
        _log.warning("%s: %s", printable(source), printable(note))


def _item(clip: Clip) -> Item:
    return Item(str(clip.video), clip.start, clip.end)


def _lines(path: Path) -> ItemList:
    try:
        lines = path.read_text(encoding="utf-8-sig").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}: cannot read the sentences: {error}") from error
    found = ItemList([])
    for number, line in enumerate(lines, start=1):
        if line.strip():
            found.items.append(Item(str(path), text=line.strip()))
        else:
            found.skipped.append({"file": str(path), "field": f"line {number}", "reason": "is empty"})
    return found


def _captions(source: str | Path, split: str | None, share: float) -> ItemList:
    read = read_clips(source)
    _tell(source, read.notes)
    found = ItemList([], skipped=read.skipped)
    clips = choose_split(read.clips, split, str(source), share)
    for clip in {clip.video: clip for clip in clips}.values():  # all rows of a video share its captions
        found.items += [Item(str(clip.video), c.start, c.end, c.text) for c in clip.captions]
        if not clip.captions:
            found.skipped.append({"file": str(clip.video), "field": "captions", "reason": "has none"})
    return found
