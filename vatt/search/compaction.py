"""Putting the segments of an index together: few large ones, without what no file has any more."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from vatt.files import appearing_folder
from vatt.search.format import SEGMENTS, Batch, Record, Segment, read_segment, segment_paths, write_segment
from vatt.search.state import Content, Named, State, ranges_of

MOST_ROWS = 1 << 16  # of a segment: 170 MB with the vectors of the large models
_SMALL, _MANY = MOST_ROWS // 2, 16
_DEAD = 4096  # windows that no file has; fewer are not worth writing an index anew


def worn(segments: Sequence[Segment], state: State) -> bool:
    """Whether an index has many small segments, or is by half of files that were deleted or changed."""
    rows = sum(map(len, segments))
    live = {named.content for named in state.live()}
    dead = rows - sum(state.contents[content].rows for content in live)
    return sum(len(segment) < _SMALL for segment in segments) > _MANY or dead > max(_DEAD, rows / 2)


def compact(out: Path, segments: Sequence[Segment], state: State, widths: Mapping[str, int]) -> list[Segment]:
    """Writes all segments anew, in the order of the files, and gives them the place of the old ones at once."""
    live = state.live()
    names: dict[str, list[Named]] = {}
    for named in live:
        names.setdefault(named.content, []).append(named)
    ranges = [ranges_of(segment) for segment in segments]
    parts = [[record for record in segment.records if "part" in record] for segment in segments]
    folder = out / SEGMENTS
    with appearing_folder(folder, replace=True, sync=True) as partly:
        batch, rows, number = Batch(), 0, 0
        for content, files in names.items():
            rows += _take(batch, state.contents[content], segments, ranges, parts)
            batch.records += [named.record() for named in files]
            if rows >= MOST_ROWS:
                write_segment(partly / f"{number:08d}.safetensors", batch, widths)
                batch, rows, number = Batch(), 0, number + 1
        if batch.records or not number:
            write_segment(partly / f"{number:08d}.safetensors", batch, widths)
        for path in folder.glob("*.damaged"):
            _keep(path, partly / path.name)
    return [read_segment(path, widths) for path in segment_paths(out)]


def _keep(path: Path, place: Path) -> None:
    """The same file under another name; a copy where the file system has one name for a file only."""
    try:
        os.link(path, place)
    except OSError:
        shutil.copyfile(path, place)


def _take(
    batch: Batch,
    content: Content,
    segments: Sequence[Segment],
    ranges: Sequence[tuple[np.ndarray, np.ndarray]],
    parts: Sequence[Sequence[Record]],
) -> int:
    """Adds the parts of a content to a batch. How many windows they have."""
    count = 0
    for place, part in content.parts:
        segment, (order, bounds) = segments[place], ranges[place]
        rows = order[bounds[part] : bounds[part + 1]]
        batch.records.append(parts[place][part])
        batch.content_N += [batch.contents] * len(rows)
        batch.contents += 1
        batch.start_N += segment.start_N[rows].tolist()
        batch.end_N += segment.end_N[rows].tolist()
        for name, x_ND in segment.vectors.items():
            batch.vectors.setdefault(name, []).append(x_ND[rows])
            batch.has.setdefault(name, []).append(segment.has[name][rows].astype(np.uint8))
        count += len(rows)
    return count
