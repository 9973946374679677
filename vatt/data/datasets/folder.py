"""A folder with a sub-folder a class, with or without train, val and test above."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from vatt.data.datasets.adapted import SPLITS, Adapted, label_of
from vatt.data.datasets.media import media_row
from vatt.data.manifest import ManifestError, media_files
from vatt.files import KINDS


def folder(annotations: Sequence[Path], videos: Path, *, kind: str | None = None) -> Adapted:
    """``CLASS/file`` or ``SPLIT/CLASS/file``: the label is the name of the sub-folder; files below it are its own.

    The folders on top are splits if all of them that hold media are named so (train, val, validation, test, ...).

    Args:
        kind: "video", "audio" or "image"; needed where the folder holds several kinds, such as pictures of videos.

    Raises:
        ManifestError: there is no such folder, annotations are given, or there are several kinds and ``kind`` is not.
    """
    if annotations:
        raise ManifestError(f"{annotations[0]}: a folder of classes takes no annotations; its names are the labels")
    root = videos.resolve()
    paths = list(media_files(videos, [kind] if kind else list(KINDS)))
    rows = [media_row(path) for path in paths]
    counts = Counter(next(iter(row)) for row in rows)
    if len(counts) > 1:
        what = ", ".join(f"{number} of {name}" for name, number in counts.items())
        raise ManifestError(f"{videos}: holds several kinds of files ({what}); choose one (--kind)")
    places = [path.relative_to(root).parts[:-1] for path in paths]
    on_top = {place[0] for place in places if place}
    has_splits = bool(on_top) and all(name.lower() in SPLITS for name in on_top)
    found = Adapted()
    for path, row, place in zip(paths, rows, places, strict=True):
        if len(place) < 1 + has_splits:
            found.left_out.append(f"{path.relative_to(root)}: lies in no folder of a class")
            continue
        row["label"] = label_of(place[int(has_splits)], str(path.parent))
        found.rows.append(row | ({"split": SPLITS[place[0].lower()]} if has_splits else {}))
    if not has_splits and (named := sorted(name for name in on_top if name.lower() in SPLITS)):
        found.notes.append(f"{', '.join(named)} was taken as a class, because other folders beside it are no splits")
    return found
