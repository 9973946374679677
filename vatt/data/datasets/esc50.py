"""ESC-50: meta/esc50.csv and the folder audio."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vatt.data.datasets.adapted import Adapted, Row, label_of
from vatt.data.datasets.media import MediaFiles, media_row
from vatt.data.datasets.reading import files_in, table
from vatt.data.manifest import ManifestError

_FOLDS = ("1", "2", "3", "4", "5")


def esc50(annotations: Sequence[Path], videos: Path) -> Adapted:
    """ESC-50: ``filename,fold,target,category,esc10,src_file,take``, a row a sound; the label is the category.

    The column fold is 1 to 5; target, esc10, src_file and take are kept.

    Raises:
        ManifestError: a file cannot be read or has another layout, a fold is none, or a category has two numbers
            (targets); the message names the file and the line.
    """
    found, files, targets = Adapted(), MediaFiles(videos, ("audio",)), dict[str, str]()
    for source in files_in(annotations, "*.csv"):
        for place, entry in table(source, ("filename", "fold", "target", "category")):
            label, target = label_of(entry["category"], place), entry["target"]
            if targets.setdefault(label, target) != target:
                raise ManifestError(f"{place}: the target of {label} is {target}, and {targets[label]} further above")
            if entry["fold"] not in _FOLDS:
                raise ManifestError(f"{place}: the fold {entry['fold']!r} is none of 1 to 5")
            file = files.find(Path(entry["filename"]).stem)
            if file is None:
                found.missing.append(entry["filename"])
                continue
            extra: Row = {key: value for key, value in entry.items() if key not in ("filename", "category")}
            found.rows.append(media_row(file, label=label) | extra)
    found.notes += files.notes()
    return found
