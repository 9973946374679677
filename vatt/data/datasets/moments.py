"""Moments in Time: trainingSet.csv, validationSet.csv, moments_categories.txt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from vatt.data.datasets.adapted import Adapted, known, label_of, split_of
from vatt.data.datasets.media import MediaFiles, media_row
from vatt.data.datasets.reading import files_in, records
from vatt.data.manifest import ManifestError

_CATEGORIES = "moments_categories.txt"


def moments(annotations: Sequence[Path], videos: Path) -> Adapted:
    """Moments in Time: lines ``class/file.mp4,class,agree,disagree`` without a header, the file below training/ or
    validation/. moments_categories.txt (``class,number``), if it is given, is what the classes are held against.

    Raises:
        ManifestError: a file cannot be read or has another layout, or an unknown class; names the file and the line.
    """
    paths = files_in(annotations, "*Set.csv")
    lists = [path for path in paths if path.name == _CATEGORIES]
    lists += [path for given in annotations if (path := given / _CATEGORIES).is_file()]
    if lists == paths:
        raise ManifestError(f"{lists[0]}: is the list of classes; give trainingSet.csv or validationSet.csv as well")
    classes = {label for path in lists for _, (label, _) in records(path, (2,), "class,number")}
    found, files = Adapted(), MediaFiles(videos)
    for source in paths:
        if source in lists:
            continue
        folder = _folder_of(source)
        for place, (video, name, agree, disagree) in records(source, (4,), "path,class,agree,disagree"):
            label = label_of(name, place)
            if classes:
                known(label, classes, place, lists[0])
            file = files.find(PurePosixPath(video).stem, inside=(folder, *PurePosixPath(video).parent.parts))
            if file is None:
                found.missing.append(video)
                continue
            split = split_of(folder, str(source))
            found.rows.append(media_row(file, label=label, split=split, agree=agree, disagree=disagree))
    found.notes += files.notes()
    return found


def _folder_of(source: Path) -> str:
    for folder in ("training", "validation", "test"):
        if folder in source.stem.lower():
            return folder
    raise ManifestError(f"{source}: the name must say the split, as trainingSet.csv and validationSet.csv do")
