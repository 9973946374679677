"""What ``vatt embed`` is given: a folder, a manifest, or a file of sentences, as a list of items."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vatt.data.manifest import MEDIA, Clip, ManifestError, media_files, read_clips
from vatt.inference.embed import clip_of
from vatt.inference.spaces import Modality

_KINDS = {"video": ("video",), "audio": ("audio", "video")}  # of files that are looked for in a folder


@dataclass(frozen=True)
class Item:
    """One row of the result: a file or a part of it (seconds), and its sentence if that is what is embedded."""

    file: str
    start: float | None = None
    end: float | None = None
    text: str | None = None

    def row(self) -> dict[str, Any]:
        """The columns; without ``text`` where there is none."""
        return {name: value for name, value in asdict(self).items() if name != "text" or value is not None}


@dataclass
class Source:
    """The items of a data set, the clips of the same numbers (none of sentences), and what was left out of them."""

    items: list[Item]
    clips: list[Clip] = field(default_factory=list)
    skipped: list[dict[str, Any]] = field(default_factory=list)

    def digest(self, base: Path) -> str:
        """16 hexadecimal digits that change with any item; files are named from ``base`` on, so that both may move."""
        rows = [[os.path.relpath(item.file, base), item.start, item.end, item.text] for item in self.items]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]


def read_source(path: Path, modality: Modality) -> Source:
    """The items of a folder (searched through), a manifest (.csv, .jsonl), or, for text, a .txt (a sentence a line).

    For video and audio each row of a manifest is an item; audio takes the sound of videos, too. For text it is each
    caption of each video, whether from the manifest or from files beside the videos.

    Raises:
        ManifestError: it cannot be read, or holds no item.
    """
    if modality == "text":
        found = _lines(path) if path.suffix.lower() == ".txt" else _captions(path)
    elif path.is_dir():
        clips = [clip_of(file) for file in media_files(path, _KINDS[modality])]
        found = Source([_item(clip) for clip in clips], clips)
    else:
        read = read_clips(path)
        found = Source(
            [_item(clip) for clip in read.clips], read.clips, [r for r in read.skipped if r["field"] in MEDIA]
        )
    if not found.items:
        what = {"video": "no video", "audio": "no sound file and no video", "text": "no sentence"}[modality]
        raise ManifestError(f"{path}: holds {what}")
    return found


def _item(clip: Clip) -> Item:
    return Item(str(clip.video), clip.start, clip.end)


def _lines(path: Path) -> Source:
    try:
        lines = path.read_text(encoding="utf-8-sig").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}: cannot read the sentences: {error}") from error
    found = Source([])
    for number, line in enumerate(lines, start=1):
        if line.strip():
            found.items.append(Item(str(path), text=line.strip()))
        else:
            found.skipped.append({"file": str(path), "field": f"line {number}", "reason": "is empty"})
    return found


def _captions(path: Path) -> Source:
    read = read_clips(path)
    found = Source([], skipped=read.skipped)
    for clip in {clip.video: clip for clip in read.clips}.values():  # all rows of a video share its captions
        found.items += [Item(str(clip.video), c.start, c.end, c.text) for c in clip.captions]
        if not clip.captions:
            found.skipped.append({"file": str(clip.video), "field": "captions", "reason": "has none"})
    return found
