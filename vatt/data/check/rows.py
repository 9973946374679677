"""The rows of a manifest or a folder with all their columns, and what is wrong with a row by itself."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vatt.data.datasets.media import media_row
from vatt.data.manifest import Clip, ManifestError, _clip, media_files, rows_of

Fault = dict[str, str]  # {"file", "field", "reason"}

# Annotations in whole seconds may end past the last frame by less than one; more is another video, or a cut one.
_PAST_END = 1.0


@dataclass
class CheckedRow:
    """A row as the manifest has it, what it means, and its place in the manifest."""

    values: dict[str, Any]
    clip: Clip
    place: str


def read_rows(source: Path) -> tuple[list[CheckedRow], list[Fault]]:
    """All rows of a manifest, or one for each video of a folder; rows that cannot be read are faults.

    Raises:
        ManifestError: no such path, or a file that is no manifest or has a line that does not parse.
    """
    if source.is_dir():
        paths = list(media_files(source, ("video",)))
        return [CheckedRow(media_row(path), Clip(path), "folder") for path in paths], []
    if not source.is_file():
        raise ManifestError(f"{source}: no such folder or manifest")
    rows: list[CheckedRow] = []
    faults: list[Fault] = []
    for place, values in rows_of(source):
        try:
            rows.append(CheckedRow(values, _clip(source, place, values, defaultdict(list)), place))
        except ManifestError as error:
            faults.append({"file": str(source), "field": "row", "reason": str(error)})
    return rows, faults


def range_fault(clip: Clip, duration: float) -> Fault | None:
    """That the range of a clip does not lie within its file; a ``duration`` of 0 is not known."""
    if duration <= 0:
        return None
    if clip.start is not None and clip.start >= duration:
        reason = f"{clip.start:g} s lies past the end of the file at {duration:.2f} s"
        return {"file": str(clip.video), "field": "start", "reason": reason}
    if clip.end is not None and clip.end > duration + _PAST_END:
        reason = f"{clip.end:g} s lies past the end of the file at {duration:.2f} s"
        return {"file": str(clip.video), "field": "end", "reason": reason}
    return None
