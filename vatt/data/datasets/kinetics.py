"""Kinetics 400, 600, 700 and 700-2020: train.csv, validate.csv (val.csv), test.csv."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vatt.data.captions import timed_caption
from vatt.data.datasets.adapted import Adapted, Row, label_of, split_of
from vatt.data.datasets.media import MediaFiles, cut_names, media_row
from vatt.data.datasets.reading import files_in, table

_OURS = {"label", "split", "youtube_id", "time_start", "time_end"}


def kinetics(annotations: Sequence[Path], videos: Path, *, cut: bool = False) -> Adapted:
    """Kinetics: ``label,youtube_id,time_start,time_end,split`` and further columns (is_cc), which are kept.

    A file is the cut clip, named ``<id>_000010_000020``, or else the whole video, named ``<id>``, of which the row
    takes the range. Folders of classes or splits around the files are looked into. The files for testing have no column
    label, and their rows none. Where there is no column split, the name of the file says it.

    Args:
        cut: files that are named by the id alone are cut already, too.

    Raises:
        ManifestError: a file cannot be read or has another layout; the message names it and the line.
    """
    found, files = Adapted(), MediaFiles(videos)
    sources = [path for given in annotations for path in _tables(given)]
    for source in sources:
        for place, entry in table(source, ("youtube_id", "time_start", "time_end")):
            name, start, end = entry["youtube_id"], entry["time_start"], entry["time_end"]
            split = split_of(entry["split"], place) if "split" in entry else _split_of_file(source)
            label = label_of(entry["label"], place) if "label" in entry else None
            inside = (label or "", split or "")
            clip = files.find(*cut_names(name, start, end), inside=inside)
            path = clip or files.find(name, inside=inside)
            if path is None:
                found.missing.append(name)
                continue
            extra: Row = {key: value for key, value in entry.items() if key not in _OURS}
            row = media_row(path, label=label, split=split, youtube_id=name)
            if clip is None and not cut:
                try:
                    span = timed_caption("-", start, end)
                except ValueError as error:
                    found.left_out.append(f"{place}: {error}")
                    continue
                row |= {"start": span.start, "end": span.end}
            found.rows.append(row | extra)
    if unlabelled := sum("label" not in row for row in found.rows):
        found.notes.append(f"{unlabelled} rows have no label; a manifest to fine-tune or evaluate on must do without")
    found.notes += files.notes()
    if any(path.is_dir() for path in annotations):
        found.notes.append(f"read {', '.join(source.name for source in sources)}")
    return found


def _tables(path: Path) -> list[Path]:
    """A file, or the tables of a folder; the mirrors of Kinetics-600 have train.txt and val.txt beside test.csv."""
    if not path.is_dir():
        return [path]
    texts = [path / name for name in ("train.txt", "val.txt") if (path / name).is_file()]
    return texts + (files_in([path], "*.csv") if not texts else sorted(path.glob("*.csv")))


def _split_of_file(path: Path) -> str | None:
    """The split that the last word of a file's name is, as in kinetics_700_test.csv."""
    words = path.stem.lower().replace("-", "_").split("_")
    return split_of(words[-1], f"{path}: there is no column split, and in the name of the file")
