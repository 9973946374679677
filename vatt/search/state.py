"""What an index holds, from its segments: files, their contents, and the windows of each, in one order.

The order is that of the names, then of time, whatever the order in which windows were embedded: an index that was
interrupted, or made by several processes, has the same rows as any other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vatt.search.format import MOST_SECONDS, Record, SearchError, Segment


@dataclass
class Content:
    """What a file holds: it stays the same when the file gets another name, or is copied.

    Attributes:
        size: bytes; 0 in shards.
        done: windows that were tried, from the first on; all of them if this is ``windows``.
        rows: windows of these that have a vector.
        captions: of an index that was made when contents had them.
        parts: (segment, content number there) of its rows.
    """

    id: str
    media: str
    size: int
    seconds: float
    sha256: str
    ranges: list[list[float | None]]
    windows: int
    done: int = 0
    rows: int = 0
    faults: list[dict[str, Any]] = field(default_factory=list)
    captions: list[list[Any]] = field(default_factory=list)
    parts: list[tuple[int, int]] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether all windows were tried."""
        return self.done >= self.windows

    def record(self, part: tuple[int, int], rows: int, faults: list[dict[str, Any]]) -> Record:
        """What a segment keeps of these windows, of which ``rows`` have a vector."""
        names = ("media", "size", "seconds", "sha256", "ranges", "windows")
        found: Record = {"content": self.id} | {name: getattr(self, name) for name in names}
        return found | {"part": list(part), "rows": rows, "faults": faults}


@dataclass
class Named:
    """A file: its name, what the system said of it when it was read, its content, and its captions.

    Attributes:
        captions: [start, end, text] each.
        beside: what tells whether they are others now, see `vatt.search.listing.beside`; None: not known.
    """

    name: str
    content: str
    size: int
    mtime: int
    label: str | None = None
    captions: list[list[Any]] = field(default_factory=list)
    beside: list[Any] | None = None

    def record(self) -> Record:
        """What a segment keeps of it."""
        found: Record = {"file": self.name, "content": self.content, "size": self.size, "mtime": self.mtime}
        for name in ("label", "captions", "beside"):
            if (value := getattr(self, name)) or value == []:
                found[name] = value
        return found


@dataclass
class State:
    """All files and contents; contents that no file has are kept until the index is compacted."""

    files: dict[str, Named] = field(default_factory=dict)
    contents: dict[str, Content] = field(default_factory=dict)

    def apply(self, segments: Sequence[Segment], first: int = 0) -> None:
        """Adds segments, of which the first has the number ``first``. Raises SearchError: a record is no such."""
        for number, segment in enumerate(segments, start=first):
            contents = 0
            try:
                for record in segment.records:
                    _check(record)
                    if "part" in record:
                        self.take(record, (number, contents))
                        contents += 1
                    elif record.get("deleted"):
                        self.files.pop(record["file"], None)
                    else:
                        named = Named(*(record[key] for key in ("file", "content", "size", "mtime")))
                        named.label, named.beside = record.get("label"), record.get("beside")
                        named.captions = record.get("captions", [])
                        self.files[named.name] = named
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise SearchError(f"{segment.path}: a record is no file and no content: {error!r}") from error

    def take(self, record: Record, place: tuple[int, int]) -> None:
        """A part of a content."""
        first, last = record["part"]
        content = self.contents.get(record["content"])
        if content is None or first == 0:
            names = ("media", "size", "seconds", "sha256", "ranges", "windows")
            content = Content(record["content"], *(record[name] for name in names))
            content.captions = record.get("captions", [])
            self.contents[content.id] = content
        if first != content.done:  # as of a part that was lost
            return
        content.done = last
        content.sha256 = content.sha256 or record["sha256"]
        content.rows += record["rows"]
        content.faults += record["faults"]
        content.parts.append(place)

    def captions_of(self, named: Named) -> list[list[Any]]:
        """[start, end, text] of each."""
        return self.contents[named.content].captions if named.beside is None else named.captions

    def live(self) -> list[Named]:
        """The files that have a content, in the order of their names."""
        return [self.files[name] for name in sorted(self.files) if self.files[name].content in self.contents]


_KINDS: dict[str, type | tuple[type, ...]] = {
    **{"file": str, "label": str, "content": str, "media": str, "sha256": str, "size": int, "mtime": int},
    **{"seconds": (int, float), "windows": int, "rows": int, "part": list, "ranges": list, "faults": list},
    **{"captions": list, "beside": list},
}


def _check(record: Record) -> None:
    """Raises ValueError: a value that no index has, as of somebody who means harm."""
    for name, value in record.items():
        if not isinstance(value, _KINDS.get(name, object)):
            raise ValueError(f"{name} is {str(value)[:40]!r}")
    if record.get("media", "video") not in ("video", "audio", "image"):
        raise ValueError(f"media is {record['media'][:40]!r}")
    if not 0 <= record.get("seconds", 0) < MOST_SECONDS:
        raise ValueError(f"seconds is {record['seconds']!r}")
    for start, end, text in record.get("captions", ()):
        if not (isinstance(text, str) and _is_time(start) and _is_time(end)):
            raise ValueError(f"a caption is {str([start, end, text])[:80]}")


def _is_time(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and math.isfinite(value))


@dataclass(frozen=True)
class Rows:
    """The windows of an index, N of them.

    Attributes:
        file: the place of each window's file in the list of files.
        start_s, end_s: seconds in the file.
        physical: which row of all segments, one after the other, holds its vectors.
    """

    file: np.ndarray
    start_s: np.ndarray
    end_s: np.ndarray
    physical: np.ndarray

    def __len__(self) -> int:
        return len(self.file)


def rows_of(files: Sequence[Named], contents: Mapping[str, Content], segments: Sequence[Segment]) -> Rows:
    """The windows of files, in their order and that of time."""
    offsets = np.cumsum([0, *map(len, segments)])
    ranges = [ranges_of(segment) for segment in segments]
    pieces: list[np.ndarray] = [np.empty(0, np.int64)]
    counts = np.zeros(len(files), np.int64)
    for number, named in enumerate(files):
        for segment, content in contents[named.content].parts:
            order, bounds = ranges[segment]
            rows = order[bounds[content] : bounds[content + 1]]
            pieces.append(rows + offsets[segment])
            counts[number] += len(rows)
    physical = np.concatenate(pieces)
    file = np.repeat(np.arange(len(files), dtype=np.int32), counts)
    empty = [np.empty(0, np.float64)]
    start = np.concatenate([*empty, *(segment.start_N for segment in segments)])[physical]
    end = np.concatenate([*empty, *(segment.end_N for segment in segments)])[physical]
    order = np.lexsort((start, file))
    return Rows(file[order], start[order], end[order], physical[order])


def ranges_of(segment: Segment) -> tuple[np.ndarray, np.ndarray]:
    """The rows of a segment by content, and where those of each content begin."""
    contents = sum("part" in record for record in segment.records)
    order = np.argsort(segment.content_N, kind="stable")
    return order, np.searchsorted(segment.content_N[order], np.arange(contents + 1))
