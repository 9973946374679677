"""AudioSet: balanced_train_segments.csv, unbalanced_train_segments.csv, eval_segments.csv, class_labels_indices.csv."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vatt.data.captions import timed_caption
from vatt.data.datasets.adapted import Adapted, known, label_of
from vatt.data.datasets.media import MediaFiles, cut_names, media_row
from vatt.data.datasets.reading import files_in, header_of, records, table
from vatt.data.labels import SEPARATOR
from vatt.data.manifest import ManifestError


def audioset(annotations: Sequence[Path], videos: Path, *, cut: bool = False, split: str | None = None) -> Adapted:
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
            names |= {row["mid"]: label_of(row["display_name"], place) for place, row in table(path, ())}
        else:
            segments.append(path)
    if not segments:
        raise ManifestError(f"{lists[0]}: is the list of labels; give a file of segments as well")
    found, files = Adapted(), MediaFiles(videos, ("video", "audio"))
    for source in segments:
        of_file = split or _split_of_file(source)
        for place, (name, start, end, ids) in records(source, (4,), "YTID, start, end, labels"):
            mids = [mid.strip() for mid in ids.split(",") if mid.strip()]
            labels = [names[known(mid, names, place, lists[0])] if names else mid for mid in mids]
            clip = files.find(*cut_names(name, start, end), f"Y{name}")  # the last: as the PANNs tools cut them
            path_found = clip or files.find(name)
            if path_found is None:
                found.missing.append(name)
                continue
            try:
                span = timed_caption("-", start, end)
            except ValueError as error:
                found.left_out.append(f"{place}: {error}")
                continue
            row = media_row(path_found, label=label_of_many(labels, place), split=of_file, youtube_id=name)
            found.rows.append(row if clip or cut else {**row, "start": span.start, "end": span.end})
    found.notes += files.notes()
    return found


def label_of_many(labels: list[str], where: str) -> str:
    """Several labels as a manifest has them. Raises ManifestError if there is none."""
    return SEPARATOR.join(label_of(label, where) for label in labels) or label_of("", where)


def _split_of_file(path: Path) -> str | None:
    name = path.name.lower()
    if "train" in name:
        return "train"
    return "test" if "eval" in name else None
