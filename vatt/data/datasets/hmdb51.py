"""HMDB51: testTrainMulti_7030_splits, a file a class and split."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from vatt.data.datasets.adapted import Adapted, label_of
from vatt.data.datasets.media import MediaFiles, media_row
from vatt.data.datasets.reading import files_in, lines_of
from vatt.data.manifest import ManifestError

_FILE = re.compile(r"(.+)_test_split([1-9])")
_PARTS = {"0": "", "1": "train", "2": "test"}


def hmdb51(annotations: Sequence[Path], videos: Path) -> Adapted:
    """HMDB51: files ``<class>_test_split1.txt`` with lines ``name.avi 1``: 0 unused, 1 train, 2 test; three splits.

    A video is one row, with the columns split1, split2, split3: train, test, or empty where a split does not use it.
    The label is the class in the name of the file. A folder stands for all of its files.

    Raises:
        ManifestError: a file cannot be read or has another name or layout; the message names it and the line.
    """
    used: dict[tuple[str, str], dict[str, str]] = {}  # (class, video) -> its part in each split
    for path in files_in(annotations, "*_test_split*.txt"):
        match = _FILE.fullmatch(path.stem)
        if match is None:
            raise ManifestError(f"{path}: the name must be <class>_test_split1.txt, with the number 1 to 3")
        label = label_of(match[1], str(path))
        for place, line in lines_of(path):
            video, _, flag = line.rpartition(" ")
            if not video or flag not in _PARTS:
                raise ManifestError(f"{place}: expected a file and 0 (unused), 1 (train) or 2 (test), got {line!r}")
            used.setdefault((label, video.strip()), {})[f"split{match[2]}"] = _PARTS[flag]
    splits = sorted({split for parts in used.values() for split in parts})
    found, files = Adapted(), MediaFiles(videos)
    for (label, video), parts in sorted(used.items()):
        file = files.find(PurePosixPath(video).stem, inside=(label,))
        if file is None:
            found.missing.append(f"{label}/{video}")
        else:
            found.rows.append(media_row(file, label=label, **{split: parts.get(split, "") for split in splits}))
    found.notes += files.notes()
    return found
