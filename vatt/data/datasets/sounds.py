"""Sounds with classes: AudioSet, ESC-50."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vatt.data.captions import timed_caption
from vatt.data.clips import ManifestError
from vatt.data.datasets.reading import files_in, header_of, records, table
from vatt.data.datasets.rows import DatasetRows, MediaFiles, cut_names, known_label, label_of
from vatt.data.labels import SEPARATOR
from vatt.data.manifest import Row, media_row


def audioset(annotations: Sequence[Path], videos: Path, *, cut: bool = False, split: str | None = None) -> DatasetRows:
    """AudioSet: segments files (three comment lines, then YTID, start_seconds, end_seconds, "labels").

    A file is the whole video, named by the id, or the cut segment, named ``<id>_<start>``, ``<id>_<start>_<end>`` (in
    seconds or milliseconds); videos and sound files alike, and the video where there are both. The labels of a segment
    are joined by bars; class_labels_indices.csv, if it is given, turns machine ids into names. The split is train for
    the two files for training and test for eval_segments.csv.

    Args:
        cut: files that are named by the id alone are cut already, too.
        split: of all rows, for files with other names.

    Raises:
        ManifestError: a file cannot be read or has another layout, or an unknown label; names the file and the line.
    """
    names: dict[str, str] = {}
    segments, lists = [], []
    for path in files_in(annotations, "*.csv"):
        if {"mid", "display_name"} <= set(header_of(path)):
            lists.append(path)
            names |= {row["mid"]: label_of(row["display_name"], where) for where, row in table(path, ())}
        else:
            segments.append(path)
    if not segments:
        raise ManifestError(f"{lists[0]}: is the list of labels; give a file of segments as well")
    found, files = DatasetRows(), MediaFiles(videos, ("video", "audio"))
    for path in segments:
        of_file = split or _split_of_file(path)
        for where, (name, start, end, ids) in records(path, (4,), "YTID, start, end, labels"):
            mids = [mid.strip() for mid in ids.split(",") if mid.strip()]
            labels = [names[known_label(mid, names, where, lists[0])] if names else mid for mid in mids]
            clip = files.find(*cut_names(name, start, end), f"Y{name}")  # the last: as the PANNs tools cut them
            file = clip or files.find(name)
            if file is None:
                found.missing.append(name)
                continue
            try:
                span = timed_caption("-", start, end)
            except ValueError as error:
                found.skipped.append(f"{where}: {error}")
                continue
            joined = SEPARATOR.join(label_of(label, where) for label in labels) or label_of("", where)
            row = media_row(file, label=joined, split=of_file, youtube_id=name)
            found.rows.append(row if clip or cut else {**row, "start": span.start, "end": span.end})
    found.notes += files.notes()
    return found


def _split_of_file(path: Path) -> str | None:
    name = path.name.lower()
    if "train" in name:
        return "train"
    return "test" if "eval" in name else None


def esc50(annotations: Sequence[Path], videos: Path) -> DatasetRows:
    """ESC-50: ``filename,fold,target,category,esc10,src_file,take``, one row per sound; the label is the category.

    The column fold is 1 to 5; target, esc10, src_file and take are kept.

    Raises:
        ManifestError: a file cannot be read or has another layout, a fold is none, or a category has two numbers
            (targets); the message names the file and the line.
    """
    found, files, targets = DatasetRows(), MediaFiles(videos, ("audio",)), dict[str, str]()
    for path in files_in(annotations, "*.csv"):
        for where, entry in table(path, ("filename", "fold", "target", "category")):
            label, target = label_of(entry["category"], where), entry["target"]
            if targets.setdefault(label, target) != target:
                raise ManifestError(f"{where}: the target of {label} is {target}, and {targets[label]} further above")
            if entry["fold"] not in ("1", "2", "3", "4", "5"):
                raise ManifestError(f"{where}: the fold {entry['fold']!r} is none of 1 to 5")
            file = files.find(Path(entry["filename"]).stem)
            if file is None:
                found.missing.append(entry["filename"])
                continue
            extra: Row = {key: value for key, value in entry.items() if key not in ("filename", "category")}
            found.rows.append(media_row(file, label=label) | extra)
    found.notes += files.notes()
    return found
