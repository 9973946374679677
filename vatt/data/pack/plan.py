"""What is to be packed, and how it is divided: sources in groups, each of which becomes a shard, and ranges in pieces.

All of it follows from the data set and the settings alone, so that any number of processes and of jobs, and any
restart, makes the same shards.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil, floor
from pathlib import Path

from vatt.data.captions import Caption, Narration
from vatt.data.clips import Clip
from vatt.data.shards.format import Settings
from vatt.data.shards.lines import RowLine
from vatt.errors import UserError
from vatt.json_files import parse_json

_FILL = 0.75  # of a shard that the estimate may fill: a group that needs more goes on in a second shard
_PIXEL_BYTES = {"mpeg4": 0.09, "h264": 0.07, "mjpeg": 0.18}  # of a frame, measured on moving pictures (docs)
_STILL_BYTES = 0.2  # of a pixel
_SOUND_BYTES = {"pcm": 2.0, "flac": 1.4}  # of a sample
_MARGIN = 0.1  # seconds on both sides of a range: windows are rounded to a grid
_NEAR = 1e-6
_PROCESSES = 8  # a core: more only take memory, from which a machine may not recover


class PackError(UserError, ValueError):
    """Packing that cannot be done or go on. The message names the folder or the setting."""


@dataclass(frozen=True)
class PackJob:
    """What is asked for.

    Attributes:
        data: manifest or folder.
        share: (i, n): the i-th of n jobs that divide the groups, from 1.
        seconds: for one piece.
        split: only rows of this split, see `vatt.data.splits`; None: all.
    """

    data: Path
    out: Path
    settings: Settings
    workers: int = 2
    share: tuple[int, int] = (1, 1)
    seconds: float = 600.0
    split: str | None = None

    def __post_init__(self) -> None:
        if not 0 < self.seconds < float("inf"):
            raise PackError(f"--seconds: must be above 0, got {self.seconds:g}")
        most = _PROCESSES * (os.cpu_count() or 1)
        if not 1 <= self.workers <= most:
            raise PackError(f"--jobs: must be from 1 to {most} on this machine, got {self.workers}")
        if not 1 <= self.share[0] <= self.share[1]:
            raise PackError(f"--shard-of {self.share[0]}/{self.share[1]}: must be i/n with i from 1 to n")


@dataclass
class PlannedSource:
    """A media file with all its rows.

    Attributes:
        name: as it is in shards: its path in the data set, see `vatt.data.Clip`.
    """

    number: int
    path: Path
    name: str
    kind: str
    rows: list[RowLine] = field(default_factory=list)
    captions: Sequence[Caption] = ()


@dataclass(frozen=True)
class PiecePlan:
    """Frames of the grid of 1 / fps."""

    number: int
    first: int
    frames: int


def plan_sources(clips: Sequence[Clip], base: Path) -> list[PlannedSource]:
    """The files of clips with their rows, each once, in an order that mixes them: files of a class often lie together
    in a data set, and a shard should not hold one class. It depends on their number alone."""
    found: dict[tuple[Path, str], PlannedSource] = {}
    above = os.path.abspath(base) + os.sep
    for number, clip in enumerate(clips):
        source = found.get((clip.video, clip.kind))
        if source is None:
            name = clip.name or Path(os.path.abspath(clip.video).removeprefix(above)).as_posix()
            source = PlannedSource(len(found), clip.video, name, clip.kind, [], clip.captions)
            found[clip.video, clip.kind] = source
        own = None if clip.captions is source.captions or clip.captions == source.captions else clip.captions
        source.rows.append(RowLine(number, clip.start, clip.end, clip.label, clip.split, clip.extra, own))
    return sorted(found.values(), key=lambda s: hashlib.sha256(str(s.number).encode()).digest())


def data_digest(sources: Sequence[PlannedSource]) -> str:
    """16 hexadecimal digits that change with any row or caption."""
    digest = hashlib.sha256()
    for source in sources:
        rows = [[r.number, r.start, r.end, r.label, r.split, sorted(r.extra.items())] for r in source.rows]
        digest.update(json.dumps([source.name, source.kind, rows]).encode())
        for captions in (source.captions, *(row.captions for row in source.rows)):
            if captions:
                narration = captions if isinstance(captions, Narration) else Narration(captions)
                digest.update(json.dumps(narration.columns()).encode())
    return digest.hexdigest()[:16]


def row_range(row: RowLine, kind: str, duration: float, settings: Settings) -> tuple[int, int]:
    """All frames that a window of a row can reach, see `vatt.data.windows.window_start`: [first, last)."""
    if kind == "image":
        return 0, 0
    window = settings.window
    if duration == 0:  # such a source is read from its start only
        return 0, ceil(window * settings.fps - _NEAR)
    margin = max(1 / settings.fps, _MARGIN)
    begin, end = row.start or 0.0, min(row.end if row.end is not None else duration, duration)
    last = max(0.0, duration - window)
    low, high = (min(max(start, 0.0), last) for start in sorted((begin, end - window)))
    first = floor(max(0.0, low - margin) * settings.fps + _NEAR)
    return first, ceil(min(duration, max(high + window, end) + margin) * settings.fps - _NEAR)


def plan_pieces(source: PlannedSource, duration: float, settings: Settings) -> list[PiecePlan]:
    """The ranges of all rows, merged, and cut so that each window lies within one piece."""
    if source.kind == "image":
        return [PiecePlan(0, 0, 0)]
    merged: list[list[int]] = []
    for first, last in sorted(row_range(row, source.kind, duration, settings) for row in source.rows):
        if merged and first <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], last)
        else:
            merged.append([first, last])
    step, overlap = piece_frames(settings)
    pieces: list[PiecePlan] = []
    for first, last in merged:
        for start in range(first, max(first + 1, last - overlap), step):
            pieces.append(PiecePlan(len(pieces), start, min(last, start + step + overlap) - start))
    return pieces


def piece_frames(settings: Settings) -> tuple[int, int]:
    """Frames of a piece that are new, and those that the next one has, too."""
    return max(1, round(settings.piece * settings.fps)), ceil(settings.window * settings.fps - _NEAR) + 1


def needed(
    row: RowLine, source: PlannedSource, pieces: Sequence[PiecePlan], duration: float, settings: Settings
) -> set[int]:
    """The numbers of the pieces that windows of a row may be read from."""
    first, last = row_range(row, source.kind, duration, settings)
    step, overlap = piece_frames(settings)
    if source.kind == "image":
        return {0}
    starts = max(first + 1, last - overlap + 1)
    return {p.number for p in pieces if p.first < starts and first < min(p.first + step, p.first + p.frames)}


@dataclass(frozen=True)
class Plan:
    """The division of the sources. It is kept in the folder, so that all jobs and restarts have the same.

    Attributes:
        groups: the index of the first source of each.
        seconds, bytes: estimated, of all.
    """

    settings: Settings
    data: str
    sources: int
    groups: list[int]
    estimates: list[float]

    def range(self, group: int) -> tuple[int, int]:
        """The sources of a group: [first, last)."""
        return self.groups[group], (self.groups[group + 1] if group + 1 < len(self.groups) else self.sources)

    def text(self) -> str:
        """As JSON."""
        return json.dumps(vars(self) | {"settings": vars(self.settings)})


def read_plan(text: str, where: Path) -> Plan:
    """A plan from its text. Raises PackError."""
    try:
        content = parse_json(text, where, dict)
        return Plan(**(content | {"settings": Settings(**content["settings"])}))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise PackError(f"{where}: cannot be read; it is not from this program: {error}") from None


def make_plan(sources: Sequence[PlannedSource], settings: Settings, seconds_a_byte: float, data: str) -> Plan:
    """Divides sources by what they will probably take. ``seconds_a_byte``: of files of which all is packed."""
    groups: list[int] = []
    estimates: list[float] = []
    for place, source in enumerate(sources):
        size = estimate(source, settings, seconds_a_byte)
        if not groups or estimates[-1] + size > _FILL * settings.shard_size:
            groups.append(place)
            estimates.append(0.0)
        estimates[-1] += size
    return Plan(settings, data, len(sources), groups, [round(size) for size in estimates])


def whole(source: PlannedSource) -> bool:
    """Whether how much of it is packed cannot be told from its rows."""
    return source.kind != "image" and any(row.end is None for row in source.rows)


def estimate(source: PlannedSource, settings: Settings, seconds_a_byte: float) -> float:
    """Bytes that a source will probably take."""
    pixels = settings.size * settings.size * 16 / 9
    if source.kind == "image":
        return _STILL_BYTES * pixels + 2048
    if whole(source):
        try:
            seconds = os.stat(source.path).st_size * seconds_a_byte
        except OSError:  # it will be a fault
            seconds = 0.0
    else:
        ranges = [(row.start or 0.0, max(row.end or 0.0, (row.start or 0.0) + settings.window)) for row in source.rows]
        seconds, end = 0.0, 0.0
        for first, last in sorted(ranges):
            seconds += max(0.0, last - max(first, end))
            end = max(end, last)
    rate = _SOUND_BYTES[settings.sound] * settings.rate
    if source.kind == "video":
        rate += _PIXEL_BYTES[settings.video.split(" ")[0]] * pixels * settings.fps
    return seconds * rate + 2048
