"""Manifests: from a folder of videos, or a table of them, to the list of clips to train on; and writing such a table.

A manifest (.csv, .tsv, .jsonl or .parquet) has one row per clip. The column video (or audio, or image) names its file.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vatt import files
from vatt.data.captions import (
    Caption,
    CaptionError,
    Narration,
    captions_in,
    json_constant,
    read_captions,
    seconds_in,
    sidecar_of,
    timed_caption,
    whole_characters,
)
from vatt.data.clips import Clip, Clips, ManifestError
from vatt.data.shards.dataset import CACHE_GB, is_shards, read_shards
from vatt.data.sidecars import SIDECARS, Sidecars
from vatt.data.tables import COLUMNS, MEDIA, Row, is_empty, read_rows, shown
from vatt.files import VIDEOS, kind_of, walk
from vatt.json_files import json_line, parse_json

_LIST_AS_TEXT = re.compile(r"\s*[\[{]\s*['\"]")  # as pandas writes a list into a table
_LONGEST = 1e9  # seconds: 30 years
_ENDINGS = 8  # of files that are passed over, named


def read_clips(
    path: str | Path, *, cache: str | Path | None = None, cache_gb: float = CACHE_GB, timeout: float = 30.0
) -> Clips:
    """Reads a manifest (.csv, .tsv, .jsonl or .parquet), a folder of videos (searched through, in the order of their
    names), or shards that `vatt data pack` wrote: their folder, or its URL.

    The columns of a manifest are video, start, end, caption, label, split; all but video may be missing or empty, and
    others are kept in ``Clip.extra``. In place of video, a row may name a sound file (audio) or a picture (image).
    Paths are relative to the manifest. Rows of one video are its narration: each of them is a clip, with the captions
    of all. Where a manifest has no caption column, and in folders, the captions come from files beside the videos
    (see `vatt.data.sidecars`). ``Clips.notes`` tells which files of a folder are none that is read, and which language
    of captions was taken where there are several.

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
        reasons = "; ".join(f"{r['file']:.200}: {r['reason']:.200}" for r in found.skipped[:3])
        what = f"no video file ({', '.join(VIDEOS[:8])}, ...)" if path.is_dir() else "no row whose video is there"
        if path.is_dir() and next(path.glob("shard-*.tar"), None):
            what = "shards without index.json, which `vatt data pack` writes last: run it again to its end"
        more = "; ".join(filter(None, (reasons, *found.notes)))
        raise ManifestError(f"{path}: {what}" + (f" ({more})" if more else ""))
    return found


def media_files(folder: Path, kinds: Sequence[str], others: Counter[str] | None = None) -> Iterator[Path]:
    """The media files below a folder, see `vatt.files.walk`.

    Args:
        others: counts the endings of the other files, see `passed_over`.

    Raises:
        ManifestError: there is no such folder, or one below it cannot be read.
    """
    if not folder.is_dir():
        raise ManifestError(f"{folder}: no such folder of media files")
    try:
        yield from walk(folder, kinds, others)
    except OSError as error:
        raise ManifestError(f"{error.filename}: cannot be read: {error.strerror}") from error


def passed_over(others: Counter[str]) -> str | None:
    """In a line, for people: files of a folder that were not read, by their endings; None if there are none. Captions
    do not count."""
    found = [(ending, count) for ending, count in others.most_common() if ending not in SIDECARS]
    if not found:
        return None
    named = ", ".join(f"{count} {ending or 'without ending'}" for ending, count in found[:_ENDINGS])
    rest = sum(count for _, count in found[_ENDINGS:])
    return f"passed over: {named}" + (f" and {rest} others" if rest else "")


def _from_folder(folder: Path) -> Clips:
    clips: list[Clip] = []
    found = Clips(clips)
    root, others, sidecars = folder.resolve(), Counter[str](), Sidecars()
    for name in (path.relative_to(root) for path in media_files(folder, ("video",), others)):
        video = folder / name
        clips.append(Clip(video, captions=captions_beside(video, found, sidecars), name=name.as_posix()))
    found.notes += filter(None, (passed_over(others), sidecars.note()))
    return found


def _from_manifest(path: Path) -> Clips:
    complete: list[Clip] = []
    found = Clips(complete)
    narration: dict[Path, list[Caption]] = defaultdict(list)
    clips: list[Clip] = []
    has_captions = False
    there: dict[Path, bool] = {}
    sidecars = Sidecars()
    for line, row in read_rows(path):
        has_captions = has_captions or "caption" in row or "captions" in row
        clip, caption = parse_row(path, line, row)
        if caption is not None:
            narration[clip.video].append(caption)
        if clip.video not in there:
            there[clip.video] = os.path.isfile(clip.video)  # False, too, where the name is too long
        if there[clip.video]:
            clips.append(_with_captions(path, line, clip, row.get("captions"), found))
        else:
            reason = f"no such file; {path}, {line}"
            of_split = {"split": clip.split} if clip.split else {}
            found.skipped.append({"file": str(clip.video), "field": clip.kind, "reason": reason, **of_split})
    of_video: dict[Path, Sequence[Caption]] = {}  # one tuple per video, shared by its clips
    for clip in clips:
        if clip.captions:  # in the row itself
            complete.append(clip)
            continue
        if clip.video not in of_video:
            own = tuple(narration[clip.video])
            of_video[clip.video] = own if has_captions else captions_beside(clip.video, found, sidecars)
        complete.append(replace(clip, captions=of_video[clip.video]))
    found.notes += filter(None, (sidecars.note(),))
    return found


def captions_beside(video: Path, found: Clips, sidecars: Sidecars) -> tuple[Caption, ...]:
    """The captions of the file beside a video; what is wrong with it goes to ``found.skipped``."""
    sidecar = sidecar_of(video, sidecars)
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
    if is_empty(content):
        return clip
    where = f"{path}, {line}, column captions"
    try:
        if isinstance(content, str):
            content = parse_json(content, where, surrogates=True, constant=json_constant)
        captions, skipped = captions_in(content, where)
    except ValueError as error:
        raise ManifestError(str(error)) from error
    found.skipped += [
        {"file": str(clip.video), "field": "captions", "reason": f"{path}, {line}: {reason}"} for reason in skipped
    ]
    return replace(clip, captions=Narration(captions))


def parse_row(path: Path, line: str, row: Row) -> tuple[Clip, Caption | None]:
    """The clip of a row of the manifest ``path``, still without captions, and the value of its column caption.

    Raises:
        ManifestError: a value that cannot be read, or is of another type; the message names the column.
    """

    def text(column: str) -> str | None:
        return _text(f"{path}, {line}, column {column}", row.get(column))

    named = [(kind, row[kind]) for kind in MEDIA if not is_empty(row.get(kind))]
    if len(named) != 1:
        columns = ", ".join(kind for kind, _ in named) or "video"
        raise ManifestError(f"{path}, {line}, column {columns}: {'only one may be filled' if named else 'is empty'}")
    kind, name = named[0]
    if not isinstance(name, str) or "\0" in name:
        raise ManifestError(f"{path}, {line}, column {kind}: expected the name of a file, got {shown(name)}")
    name = name.strip()
    start, end = (_seconds(path, line, column, row.get(column)) for column in ("start", "end"))
    if start is not None and end is not None and end <= start:
        raise ManifestError(f"{path}, {line}, column end: {end:g} is not after start, {start:g}")
    caption = None
    if (sentence := text("caption")) is not None:
        timed = start is not None and end is not None
        caption = timed_caption(sentence, start, end) if timed else Caption(sentence)
    extra = {key: _other(value) for key, value in row.items() if key and key not in COLUMNS and not _is_nan(value)}
    split = (text("split") or "").lower() or None
    label = text("label")
    if label is not None and _LIST_AS_TEXT.match(label):
        raise ManifestError(f"{path}, {line}, column label: {shown(label)} is a list; several labels are written a|b")
    video = path.parent / name
    return Clip(video, start, end, (), label, split, extra, kind, name=_name(name, video, path), row=line), caption


def _is_nan(value: Any) -> bool:
    return value is None or (isinstance(value, float) and value != value)


def _text(where: str, value: Any) -> str | None:
    """The text of a value, None if there is none. A number is text, as in a table: 3.0 is "3", as pandas writes a whole
    number in a column that lacks some."""
    if is_empty(value):
        return None
    if isinstance(value, str):
        return whole_characters(value).strip()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, (bool, list, dict, bytes, tuple)) or value in (float("inf"), float("-inf")):
        hint = "; several labels are written a|b" if where.endswith("label") else ""
        hint = "; several captions stand in the column captions" if where.endswith("caption") else hint
        raise ManifestError(f"{where}: expected text, got {shown(value)}{hint}")
    return str(value)


def _other(value: Any) -> str:
    """The value of a column that nothing here is read from."""
    if isinstance(value, (list, dict)):
        return json.dumps(value, ensure_ascii=False, default=str)
    return whole_characters(str(value))


def _name(name: str, video: Path, manifest: Path) -> str:
    """The path of a video in its data set: from the folder of the manifest on, or as it is where the manifest has an
    absolute one that leads elsewhere."""
    if not os.path.isabs(name):
        return Path(os.path.normpath(name)).as_posix()
    above = os.path.abspath(manifest.parent)
    return Path(os.path.normpath(video).removeprefix(above if above == os.sep else above + os.sep)).as_posix()


def _seconds(path: Path, line: str, column: str, value: Any) -> float | None:
    if is_empty(value):
        return None
    seconds = seconds_in(value)
    if seconds is None:
        raise ManifestError(f"{path}, {line}, column {column}: {shown(value)} is not a number of seconds")
    if not 0 <= seconds < _LONGEST:
        raise ManifestError(f"{path}, {line}, column {column}: {shown(value)} is not a time within a video")
    return seconds


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
    write_lines(out, (json_line(row, default=_as_json) for row in rows))


def _as_json(value: Any) -> Any:
    return value.columns() if isinstance(value, Narration) else str(value)  # of .parquet: dates, exact decimals


def write_lines(out: Path, lines: Iterable[str]) -> None:
    """Writes a text file, atomically. Raises ManifestError, naming the file, if that fails."""
    try:
        files.write_lines(out, lines)
    except (OSError, UnicodeEncodeError) as error:
        raise ManifestError(f"{out}: cannot be written: {error}") from error
