"""What a source holds now: the files of a folder, or those that a manifest or shards name, each once."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vatt.data.captions import Caption
from vatt.data.clips import Clip, Clips, ManifestError
from vatt.data.decode import Media
from vatt.data.manifest import MEDIA, captions_beside, media_files, passed_over, read_clips
from vatt.data.shards.dataset import is_shards
from vatt.data.shards.storage import is_url
from vatt.data.sidecars import Sidecars
from vatt.data.splits import SHARE, choose_split, records_of
from vatt.errors import printable
from vatt.files import kind_of

_log = logging.getLogger(__name__)
Range = list[float | None]  # seconds, from and to; None: the beginning, the end


@dataclass
class Entry:
    """A file, or a source in shards, and which of it is to be indexed.

    Attributes:
        name: from the source on, with "/"; the whole path of a file elsewhere.
        ranges: that are searched through, in order, apart from each other.
        size, mtime: as the system says, bytes and nanoseconds; of shards 0, and ``sha256`` says what they hold.
    """

    name: str
    media: Media
    kind: str
    ranges: list[Range] = field(default_factory=lambda: [[None, None]])
    label: str | None = None
    size: int = 0
    mtime: int = 0
    sha256: str = ""
    captions: Sequence[Caption] | None = None  # None: they are looked for beside the file

    @property
    def id(self) -> str:
        """16 hexadecimal digits for what is in the file now, as far as can be told without reading it."""
        told = json.dumps([self.name, self.kind, self.size, self.mtime, self.sha256, self.ranges])
        return hashlib.sha256(told.encode()).hexdigest()[:16]


@dataclass
class Listing:
    """The entries of a source in the order of their names, and what of it is missing.

    Attributes:
        root: what names are relative to; None of a URL.
        clips: that name them.
    """

    entries: list[Entry]
    root: Path | None
    clips: Sequence[Clip] = ()
    skipped: list[dict[str, Any]] = field(default_factory=list)

    def digest(self) -> str:
        """16 hexadecimal digits that change with the files, but not with where they are, nor with their times."""
        told = [[entry.name, entry.kind, entry.size, entry.sha256, entry.ranges] for entry in self.entries]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]


def list_source(source: str | Path, split: str | None = None, share: float = SHARE, pictures: bool = False) -> Listing:
    """Lists a folder (films and sounds, all the way down), a manifest, or shards (their folder or URL).

    Args:
        split: only clips of this split; None: all.
        share: of the videos that is val, where no split is named.
        pictures: of a folder, picture files, too.

    Raises:
        ManifestError: it cannot be read, or holds nothing.
    """
    path = Path(source)
    if path.is_dir() and not is_shards(source):
        others = Counter[str]()
        kinds = ("video", "audio", "image") if pictures else ("video", "audio")
        root: Path | None = path.resolve()
        top = path.resolve()
        clips: Sequence[Clip] = [
            Clip(file, kind=kind_of(file) or "video", name=file.relative_to(top).as_posix())
            for file in media_files(path, kinds, others)
        ]
        _tell(source, filter(None, (passed_over(others),)))
        skipped: list[dict[str, Any]] = []
        beside = True
    else:
        read = read_clips(source)
        _tell(source, read.notes)
        clips, beside = read.clips, False
        root = None if is_url(str(source)) else path.resolve() if is_shards(source) else path.resolve().parent
        skipped = records_of([record for record in read.skipped if record["field"] in MEDIA], split)
    if clips:
        clips = choose_split(clips, split, str(source), share)
    entries: dict[str, Entry] = {}
    for number in range(len(clips)):
        clip = clips[number]
        name = _name(clip, root)
        if (entry := entries.get(name)) is None:
            entry = entries[name] = _entry(clip, name)
            entry.captions = None if beside else clip.captions
            if (fault := _look(entry)) is not None:
                skipped.append(fault)
                del entries[name]
                continue
        entry.ranges.append([clip.start, clip.end])
        entry.label = entry.label or clip.label
    for entry in entries.values():
        entry.ranges = merged(entry.ranges)
    if not entries and not skipped:
        raise ManifestError(f"{source}: holds no video and no sound file")
    return Listing([entries[name] for name in sorted(entries)], root, clips, skipped)


def _name(clip: Clip, root: Path | None) -> str:
    if clip.packed is not None or root is None:
        return clip.name or str(clip.video)
    absolute = Path(os.path.abspath(clip.video))
    if clip.name:
        return clip.name
    return absolute.relative_to(root).as_posix() if absolute.is_relative_to(root) else str(absolute)


def _entry(clip: Clip, name: str) -> Entry:
    media = clip.media if clip.packed is not None else Path(os.path.abspath(clip.video))
    return Entry(name, media, clip.kind, [], sha256=clip.packed.digest if clip.packed is not None else "")


def _look(entry: Entry) -> dict[str, Any] | None:
    """Takes size and time of a file. A record of why that fails: it has just gone."""
    if isinstance(entry.media, Path):
        try:
            found = os.stat(entry.media)
        except OSError as error:
            return {"file": str(entry.media), "field": entry.kind, "reason": f"cannot be found: {error.strerror}"}
        entry.size, entry.mtime = found.st_size, found.st_mtime_ns
    return None


def path_of(entry: Entry) -> str:
    """For messages: the file, or its name in shards."""
    return str(entry.media) if isinstance(entry.media, Path) else entry.media.name


def merged(ranges: Iterable[Range]) -> list[Range]:
    """Ranges that overlap or touch as one, in order."""
    found: list[Range] = []
    for first, last in sorted(ranges, key=lambda each: (each[0] or 0.0, each[1] is None, each[1] or 0.0)):
        if found and (found[-1][1] is None or (first or 0.0) <= found[-1][1]):
            end = found[-1][1]
            found[-1][1] = None if end is None or last is None else max(end, last)
        else:
            found.append([first, last])
    return found


def beside(entry: Entry, sidecars: Sidecars) -> list[Any]:
    """What tells whether the captions of a file are others now: [name, bytes, nanoseconds] of each caption file beside
    it; of captions that a manifest or shards have, a digest."""
    if entry.captions is not None:
        told = json.dumps([[caption.start, caption.end, caption.text] for caption in entry.captions])
        return [hashlib.sha256(told.encode()).hexdigest()[:16]] if len(entry.captions) else []
    if entry.kind == "image" or not isinstance(entry.media, Path):
        return []
    found = list[Any]()
    for path in sidecars.of(entry.media):
        with suppress(OSError):
            status = os.stat(path)
            found.append([path.name, status.st_size, status.st_mtime_ns])
    return found


def captions_of(entry: Entry, sidecars: Sidecars) -> list[list[Any]]:
    """The captions of a file as [start, end, text], at most 100,000 of them."""
    captions = entry.captions
    if captions is None:
        found = Clips([])
        if entry.kind == "image" or not isinstance(entry.media, Path):
            return []
        captions = captions_beside(entry.media, found, sidecars)
        for record in found.skipped:
            _log.warning("%s: %s", printable(record["file"]), printable(record["reason"]))
    return [[caption.start, caption.end, caption.text] for caption in tuple(captions)[:100_000]]


def _tell(source: str | Path, notes: Iterable[str]) -> None:
    for note in notes:
        _log.warning("%s: %s", printable(source), printable(note))
