"""Manifests: from a folder of videos, or a table of them, to the list of clips to train on; and writing such a table.

A manifest (.csv or .jsonl) has one row per clip. The column video (or audio, or image) names its file.
"""

from __future__ import annotations

import csv
import difflib
import json
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vatt import files
from vatt.data.captions import Caption, CaptionError, Narration, captions_in, read_captions, sidecar_of, timed_caption
from vatt.data.clips import Clip, Clips, ManifestError
from vatt.data.shards.dataset import CACHE_GB, is_shards, read_shards
from vatt.files import KINDS, VIDEOS, json_line, kind_of, walk

MEDIA = tuple(KINDS)  # the columns that name a file; a row fills one of them
COLUMNS = (*MEDIA, "start", "end", "caption", "captions", "label", "split")

Row = dict[str, Any]  # column -> value


def read_clips(
    path: str | Path, *, cache: str | Path | None = None, cache_gb: float = CACHE_GB, timeout: float = 30.0
) -> Clips:
    """Reads a manifest (.csv or .jsonl), a folder of videos (searched through, in the order of their names), or shards
    that `vatt data pack` wrote: their folder, or its URL.

    The columns of a manifest are video, start, end, caption, label, split; all but video may be missing or empty, and
    others are kept in ``Clip.extra``. In place of video, a row may name a sound file (audio) or a picture (image).
    Paths are relative to the manifest. Rows of one video are its narration: each of them is a clip, with the captions
    of all. Where a manifest has no caption column, and in folders, the captions come from files beside the videos
    (.srt, .vtt, .json, .txt of the same name).

    Args:
        cache, cache_gb, timeout: of remote shards, see `vatt.data.shards.dataset.read_shards`.

    Raises:
        ManifestError: no such path, an unknown layout, a value that cannot be read, or no clip at all.
    """
    if is_shards(path):
        return read_shards(path, cache=cache, cache_gb=cache_gb, timeout=timeout)
    path = Path(path)
    if path.is_dir():
        found = _from_folder(path)
    elif path.is_file():
        found = _from_manifest(path)
    else:
        raise ManifestError(f"{path}: no such folder or manifest")
    if not found.clips:
        reasons = "; ".join(f"{r['file']}: {r['reason']}" for r in found.skipped[:3])
        what = f"no video file ({', '.join(VIDEOS)})" if path.is_dir() else "no row whose video is there"
        if path.is_dir() and next(path.glob("shard-*.tar"), None):
            what = "shards without index.json, which `vatt data pack` writes last: run it again to its end"
        raise ManifestError(f"{path}: {what}" + (f" ({reasons})" if reasons else ""))
    return found


def media_files(folder: Path, kinds: Sequence[str]) -> Iterator[Path]:
    """The media files below a folder, see `vatt.files.walk`.

    Raises:
        ManifestError: there is no such folder, or one below it cannot be read.
    """
    if not folder.is_dir():
        raise ManifestError(f"{folder}: no such folder of media files")
    try:
        yield from walk(folder, kinds)
    except OSError as error:
        raise ManifestError(f"{error.filename}: cannot be read: {error.strerror}") from error


def _from_folder(folder: Path) -> Clips:
    clips: list[Clip] = []
    found = Clips(clips)
    root = folder.resolve()
    for name in (path.relative_to(root) for path in media_files(folder, ("video",))):
        video = folder / name
        clips.append(Clip(video, captions=_sidecar_captions(video, found), name=name.as_posix()))
    return found


def _from_manifest(path: Path) -> Clips:
    complete: list[Clip] = []
    found = Clips(complete)
    narration: dict[Path, list[Caption]] = defaultdict(list)
    clips: list[Clip] = []
    has_captions = False
    there: dict[Path, bool] = {}
    for line, row in read_rows(path):
        has_captions = has_captions or "caption" in row or "captions" in row
        clip, caption = parse_row(path, line, row)
        if caption is not None:
            narration[clip.video].append(caption)
        if clip.video not in there:
            there[clip.video] = clip.video.is_file()
        if there[clip.video]:
            clips.append(_with_captions(path, line, clip, row.get("captions"), found))
        else:
            reason = f"no such file; {path}, {line}"
            found.skipped.append({"file": str(clip.video), "field": clip.kind, "reason": reason})
    of_video: dict[Path, Sequence[Caption]] = {}  # one tuple per video, shared by its clips
    for clip in clips:
        if clip.captions:  # in the row itself
            complete.append(clip)
            continue
        if clip.video not in of_video:
            own = tuple(narration[clip.video])
            of_video[clip.video] = own if has_captions else _sidecar_captions(clip.video, found)
        complete.append(replace(clip, captions=of_video[clip.video]))
    return found


def _sidecar_captions(video: Path, found: Clips) -> tuple[Caption, ...]:
    sidecar = sidecar_of(video)
    if sidecar is None:
        return ()
    try:
        captions, skipped = read_captions(sidecar)
    except CaptionError as error:
        captions, skipped = [], [str(error)]
    found.skipped += [{"file": str(sidecar), "field": "captions", "reason": reason} for reason in skipped]
    return tuple(captions)


def _with_captions(path: Path, line: str, clip: Clip, content: Any, found: Clips) -> Clip:
    """The clip with the captions of its column: as in a .json beside a video, or, in a .csv, such JSON as text."""
    if content is None or content == "":
        return clip
    try:
        if isinstance(content, str):
            content = json.loads(content)
        captions, skipped = captions_in(content, f"{path}, {line}, column captions")
    except ValueError as error:
        raise ManifestError(f"{path}, {line}, column captions: {error}") from error
    found.skipped += [
        {"file": str(clip.video), "field": "captions", "reason": f"{path}, {line}: {reason}"} for reason in skipped
    ]
    return replace(clip, captions=Narration(captions))


def read_rows(path: Path) -> Iterator[tuple[str, Row]]:
    """(line, row) of a manifest, with values as they are in the file; ``line`` is "line N", for messages.

    Raises:
        ManifestError: it cannot be read, a line does not parse, or a column is missing or misspelt.
    """
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".jsonl", ".ndjson"):
        raise ManifestError(f"{path}: a manifest ends in .csv or .jsonl")
    try:
        with path.open(encoding="utf-8-sig", newline="" if suffix == ".csv" else "\n") as file:
            yield from (_table_rows if suffix == ".csv" else _json_rows)(path, file)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ManifestError(f"{path}: cannot read the manifest: {error}") from error


def _table_rows(path: Path, file: Iterable[str]) -> Iterator[tuple[str, Row]]:
    csv.field_size_limit(2**30)  # captions of a film in one value
    reader = csv.DictReader(file)
    _check_columns(path, list(reader.fieldnames or []))
    for row in reader:
        if None in row:
            raise ManifestError(f"{path}, line {reader.line_num}: more values than columns")
        yield f"line {reader.line_num}", row


def _json_rows(path: Path, file: Iterable[str]) -> Iterator[tuple[str, Row]]:
    known: set[tuple[str, ...]] = set()  # columns that were checked: nearly all rows have the same ones
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ManifestError(f"{path}, line {number}: is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise ManifestError(f"{path}, line {number}: expected an object, got {line[:40]!r}")
        if (names := tuple(row)) not in known:
            _check_columns(path, list(names))
            known.add(names)
        yield f"line {number}", row


def _check_columns(path: Path, names: list[str]) -> None:
    """The video column must be there, and no other column may be a misspelling of one of ours."""
    for name in names:
        meant = difflib.get_close_matches(name.strip().lower(), COLUMNS, n=1, cutoff=0.8)
        if name not in COLUMNS and meant and not re.fullmatch(r"split\d+", name):  # official splits, for probes
            raise ManifestError(f"{path}, column {name}: did you mean {meant[0]!r}?")
    if not set(MEDIA) & set(names):
        raise ManifestError(f"{path}: has no column video (or audio, or image), only {', '.join(names) or 'none'}")


def parse_row(path: Path, line: str, row: Row) -> tuple[Clip, Caption | None]:
    """The clip of a row of the manifest ``path``, still without captions, and the value of its column caption.

    Raises:
        ManifestError: a value that cannot be read; the message names the column.
    """

    def text(column: str) -> str | None:
        value = row.get(column)
        return None if value is None or str(value).strip() == "" else str(value).strip()

    named = [(kind, name) for kind in MEDIA if (name := text(kind)) is not None]
    if len(named) != 1:
        columns = ", ".join(kind for kind, _ in named) or "video"
        raise ManifestError(f"{path}, {line}, column {columns}: {'only one may be filled' if named else 'is empty'}")
    kind, name = named[0]
    start, end = (_seconds(path, line, column, text(column)) for column in ("start", "end"))
    if start is not None and end is not None and end <= start:
        raise ManifestError(f"{path}, {line}, column end: {end:g} is not after start, {start:g}")
    caption = None
    if (sentence := text("caption")) is not None:
        timed = start is not None and end is not None
        caption = timed_caption(sentence, start, end) if timed else Caption(sentence)
    extra = {key: str(value) for key, value in row.items() if key not in COLUMNS and value is not None}
    split = (text("split") or "").lower() or None
    video = path.parent / name
    return Clip(video, start, end, (), text("label"), split, extra, kind, name=_name(name, video, path)), caption


def _name(name: str, video: Path, manifest: Path) -> str:
    """The path of a video in its data set: from the folder of the manifest on, or as it is where the manifest has an
    absolute one that leads elsewhere."""
    if not os.path.isabs(name):
        return Path(os.path.normpath(name)).as_posix()
    above = os.path.abspath(manifest.parent)
    return Path(os.path.normpath(video).removeprefix(above if above == os.sep else above + os.sep)).as_posix()


def _seconds(path: Path, line: str, column: str, text: str | None) -> float | None:
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        raise ManifestError(f"{path}, {line}, column {column}: {text!r} is not a number of seconds") from None
    if not 0 <= value < float("inf"):
        raise ManifestError(f"{path}, {line}, column {column}: {text!r} is not a time within a video")
    return value


def media_row(path: Path, **columns: Any) -> Row:
    """A row for a media file, which goes into the column of its kind, and the columns that are not None."""
    if (kind := kind_of(path)) is None:
        raise ValueError(f"{path}: is no media file")
    return {kind: str(path)} | {name: value for name, value in columns.items() if value is not None}


def write_manifest(rows: list[Row], out: Path) -> None:
    """Writes rows as a .jsonl manifest, atomically. Raises ManifestError if there is none, or it cannot be written."""
    if not rows:
        raise ManifestError(f"{out}: no row to write: not one annotated file is in the folder")
    if out.suffix != ".jsonl":
        raise ManifestError(f"{out}: the manifest must end in .jsonl")
    write_lines(out, (json_line(row, default=Narration.columns) for row in rows))


def write_lines(out: Path, lines: Iterable[str]) -> None:
    """Writes a text file, atomically. Raises ManifestError, naming the file, if that fails."""
    try:
        files.write_lines(out, lines)
    except (OSError, UnicodeEncodeError) as error:
        raise ManifestError(f"{out}: cannot be written: {error}") from error
