"""Trying all files of a data set before a job depends on them: a clean manifest, and a list of what is wrong."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vatt.data.check.cache import ResultCache, key_of
from vatt.data.check.counts import Counts, columns_of, count
from vatt.data.check.media import SILENT, SOUNDLESS, CheckError, FileResult, MediaFile, Range, check_file
from vatt.data.clips import Clip, Clips, ManifestError
from vatt.data.labels import labels_of
from vatt.data.manifest import (
    MEDIA,
    Row,
    captions_beside,
    media_files,
    media_row,
    parse_row,
    passed_over,
    read_rows,
    write_lines,
    write_manifest,
)
from vatt.data.reading import is_lost, vanished
from vatt.data.sidecars import Sidecars
from vatt.data.skipped import Record
from vatt.data.splits import nothing_in, splits_of
from vatt.isolated import Failed, run_isolated
from vatt.json_files import json_line

__all__ = [
    "CheckError",
    "Checked",
    "CheckedRow",
    "Counts",
    "check",
    "write_clean",
    "write_skipped",
]

_GRACE = 5.0  # seconds beyond its own limit after which a decoding process is ended
_PAST_END = 1.0  # annotations in whole seconds may end past the last frame by less; more is another or a cut video


@dataclass
class CheckedRow:
    """A row as the manifest has it, what it means, and its line in the manifest ("line N")."""

    values: Row
    clip: Clip
    line: str


@dataclass
class Checked:
    """What came of a data set.

    Attributes:
        rows: those that can be used.
        skipped: a record {file, field, reason} of each other one; a file that several rows name has one.
        counts: of the rows that can be used.
        files: number of files that were tried.
        silent: as ``skipped``, of what has no sound or is silent, and is of use by its pictures and captions.
        sounds: what was heard, in words; "" if nobody listened.
        notes: lines that a person should see, such as how many files of a folder were passed over.
    """

    rows: list[CheckedRow]
    skipped: list[Record]
    counts: Counts
    files: int
    sounds: str = ""
    silent: list[Record] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def check(
    data: str | Path,
    *,
    workers: int = 2,
    seconds: float = 30.0,
    sound: bool = False,
    need_sound: bool = False,
    column: str = "label",
    split: str | None = None,
    progress: Callable[[int, int, int], None] | None = None,
    cache: ResultCache | None = None,
) -> Checked:
    """Tries every file of a folder or manifest once: it opens, has the stream that its row needs, and a window in its
    middle decodes; the ranges of all rows lie within it; and rows have labels where others of their split do.

    Files are decoded in processes of their own. If one crashes, or is not done ``seconds`` later, the file that it had
    is skipped.

    Args:
        workers: number of processes.
        sound: whether videos without sound, and clips that are silent wherever one listens, are named, and equal
            sounds are counted. need_sound: and such rows are skipped.
        column: of the labels.
        split: only rows of this split, see `vatt.data.splits`; None: all.
        progress: called with (files done, files in all, faults so far).
        cache: what an earlier check, which was stopped, has found; and where this one keeps it.

    Raises:
        ManifestError: no such folder or manifest, one that cannot be read at all, or without a row of ``split``.
        CheckError: ``workers`` is less than 1.
        StartError, TooFewFiles: processes cannot be started. Vanished: the files have gone meanwhile.
    """
    if workers < 1:
        raise CheckError(f"workers must be 1 or more, got {workers}")
    rows, skipped, notes = _read(Path(data))
    if not rows and not skipped:
        what = f"{data}: holds no video file" if Path(data).is_dir() else f"{data}: has no row"
        raise ManifestError("; ".join((what, *notes)))
    if split is not None and rows:
        parted = splits_of([row.clip for row in rows])
        rows = [rows[number] for number in parted.numbers(split)]
        if not rows:
            raise ManifestError(nothing_in(parted, split, str(data)))
    ranges: dict[tuple[Path, str], dict[Range, None]] = {}
    for row in rows:
        ranges.setdefault((row.clip.video, row.clip.kind), {})[row.clip.start, row.clip.end] = None
    files = [MediaFile(*file, sound, seconds, tuple(spans) if sound else ()) for file, spans in ranges.items()]
    results = _check_all(data, files, workers, seconds, progress, ResultCache(None) if cache is None else cache)
    labelled = {side for row in rows if labels_of(row.clip, column) for side in columns_of(row.clip)}
    heard = {
        (file.path, file.kind, span): digest
        for file in files
        for span, digest in zip(file.ranges, results[file.path, file.kind].sounds, strict=False)
    }
    good: list[CheckedRow] = []
    silent: list[Record] = []
    seen: set[tuple[str, str, str]] = set()
    for row in rows:
        path_kind = row.clip.video, row.clip.kind
        wrong = _what_is_wrong(row, results[path_kind], labelled, column)
        record = wrong
        if wrong is None and (digest := heard.get((*path_kind, (row.clip.start, row.clip.end)))) in (SILENT, SOUNDLESS):
            where = f"{row.line}: " if digest == SILENT and len(ranges[path_kind]) > 1 else ""
            reason = f"{where}is silent" if digest == SILENT else results[path_kind].reason
            record = {"file": str(row.clip.video), "field": "audio", "reason": str(reason)}
        if record is None or (wrong is None and not need_sound):
            good.append(row)
        if record is not None and (key := (record["file"], record["field"], record["reason"])) not in seen:
            seen.add(key)
            (silent if wrong is None and not need_sound else skipped).append(record)
    counts = count([row.clip for row in good], column)
    return Checked(good, skipped, counts, len(files), _sounds(list(heard.values())), silent, notes)


def _check_all(
    data: str | Path,
    files: list[MediaFile],
    workers: int,
    seconds: float,
    progress: Callable[[int, int, int], None] | None,
    cache: ResultCache,
) -> dict[tuple[Path, str], FileResult]:
    """What each file gave, by path and kind."""
    keys = {
        (file.path, file.kind): key_of(file.path, file.kind, file.sound, file.seconds, file.ranges) for file in files
    }
    results = {place: found for place, key in keys.items() if (found := FileResult.read(cache.known(key))) is not None}
    faults = sum(result.field is not None for result in results.values())
    if results and progress is not None:
        progress(len(results), len(files), faults)
    todo = [file for file in files if (file.path, file.kind) not in results]
    there = [file.path for file in todo] if Path(data).is_dir() else []  # all of a walk; the good ones of a manifest
    for file, result in run_isolated(check_file, todo, workers=workers, seconds=seconds + _GRACE):
        if isinstance(result, Failed):
            result = FileResult(field="decode", reason=result.reason)
        if result.field is None:
            there.append(file.path)
        elif (
            there
            and is_lost(file.path, result.reason or "")
            and not any(map(os.path.exists, there[:: len(there) // 20 + 1]))
        ):
            raise vanished(str(data), file.path)
        results[file.path, file.kind] = result
        cache.add(keys[file.path, file.kind], result.line())
        faults += result.field is not None
        if progress is not None:
            progress(len(results), len(files), faults)
    return results


def _sounds(digests: list[bytes | None]) -> str:
    """What was heard of the clips (of a file that several rows name alike: of one), in words."""
    if not digests:
        return ""
    silent, unheard, without = digests.count(SILENT), digests.count(None), digests.count(SOUNDLESS)
    known = [digest for digest in digests if digest not in (None, SILENT, SOUNDLESS)]
    many = [number for number in Counter(known).values() if number > 1]
    words = f"sound of {len(digests) - unheard} clips: {silent} are silent"
    words += f", {without} have none" if without else ""
    if many:
        words += f", {sum(many)} have the sound of another ({len(many)} different sounds)"
    return words + (f"; {unheard} were not listened to, as time was up" if unheard else "")


def _read(data: Path) -> tuple[list[CheckedRow], list[Record], list[str]]:
    """All rows of a manifest, or one for each video of a folder; records of rows and of captions beside the videos that
    cannot be read; and notes.

    Raises:
        ManifestError: no such path, or a file that is no manifest or has a line that does not parse.
    """
    if data.is_dir():
        root = data.resolve()
        others = Counter[str]()
        files = ((path, path.relative_to(root).as_posix()) for path in media_files(data, ("video",), others))
        rows = [CheckedRow(media_row(path), Clip(path, name=name), "folder") for path, name in files]
        skipped, notes = _captions_beside(rows)
        return rows, skipped, [*filter(None, (passed_over(others),)), *notes]
    if not data.is_file():
        raise ManifestError(f"{data}: no such folder or manifest")
    rows, skipped = [], []
    for line, values in read_rows(data):
        try:
            rows.append(CheckedRow(values, parse_row(data, line, values)[0], line))
        except ManifestError as error:
            skipped.append({"file": str(data), "field": "row", "reason": str(error)})
    if any({"caption", "captions"} & row.values.keys() for row in rows):
        return rows, skipped, []
    beside, notes = _captions_beside(rows)
    return rows, skipped + beside, notes


def _captions_beside(rows: Sequence[CheckedRow]) -> tuple[list[Record], list[str]]:
    """What is wrong with the captions beside the videos of all rows, and what to tell of them."""
    found, sidecars = Clips([]), Sidecars()
    for video in dict.fromkeys(row.clip.video for row in rows):
        captions_beside(video, found, sidecars)
    return found.skipped, [*filter(None, (sidecars.note(),))]


def _what_is_wrong(row: CheckedRow, result: FileResult, labelled: set[tuple[str, str]], column: str) -> Record | None:
    file = str(row.clip.video)
    if result.field is not None:
        return {"file": file, "field": result.field, "reason": str(result.reason)}
    narrated = row.values.get("caption") or row.values.get("captions")  # such rows are good for pretraining
    if not labels_of(row.clip, column) and not narrated and labelled & set(columns_of(row.clip)):
        return {"file": file, "field": column, "reason": f"{row.line}: has no label, though others have"}
    start, end, duration = row.clip.start, row.clip.end, result.duration
    late_start = start is not None and start >= duration
    late_end = end is not None and end > duration + _PAST_END
    if duration > 0 and (late_start or late_end):  # 0: it is not known
        field, seconds = ("start", start) if late_start else ("end", end)
        reason = f"{row.line}: {seconds:g} s lies past the end of the file at {duration:.2f} s"
        return {"file": file, "field": field, "reason": reason}
    return None


def write_clean(rows: Sequence[CheckedRow], data: Path, out: Path) -> None:
    """Writes rows as a manifest (.jsonl) with the columns that they have; paths are valid from its new folder.

    Raises:
        ManifestError: there is no row, ``out`` is the manifest that was checked, or it cannot be written.
    """
    if out.resolve() == data.resolve():
        raise ManifestError(f"{out}: is the manifest that is checked; choose another name for the clean one")
    write_manifest([_moved(row.values, data, out) for row in rows], out)


def write_skipped(skipped: Sequence[Record], out: Path) -> None:
    """Writes a line {file, field, reason} for each record. Raises ManifestError if the file cannot be written."""
    write_lines(out, (json_line(record) for record in skipped))


def _moved(values: Row, data: Path, out: Path) -> Row:
    """The row with its path relative to ``out``; a path that a manifest has as an absolute one stays as it is."""
    changed = dict(values)
    for column in MEDIA:
        name = str(values.get(column) or "").strip()
        if name and (data.is_dir() or not Path(name).is_absolute()):
            changed[column] = os.path.relpath(data.parent.resolve() / name, out.parent.resolve())
    return changed
