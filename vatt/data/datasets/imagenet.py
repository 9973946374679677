"""ImageNet (ILSVRC2012): train/<wnid>/*.JPEG, and val with or without folders of classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vatt.data.datasets.adapted import SPLITS, Adapted
from vatt.data.datasets.imagenet_labels import WNID, ImageNetLabels, read_imagenet_labels
from vatt.data.datasets.media import media_row
from vatt.data.datasets.reading import files_in
from vatt.data.manifest import ManifestError, media_files


def imagenet(annotations: Sequence[Path], videos: Path) -> Adapted:
    """ImageNet: a row a picture, below train/ and val/ of the folder.

    The label is the wnid of the class, since two names (crane, maillot) are those of two classes each; sorted wnids are
    the usual order of the 1000 classes. The name is in the column ``name`` where a file says it. Pictures of val that
    lie in no folder of a class take their class from one of the files that `read_imagenet_labels` reads.

    Raises:
        ManifestError: no train/ or val/, a folder that is no wnid or an unknown one, a picture without a class, or an
            annotation file that cannot be read.
    """
    labels = read_imagenet_labels(files_in(annotations, "*.*"))
    on_top = [path for path in sorted(videos.iterdir()) if path.is_dir()] if videos.is_dir() else []
    splits = {path: SPLITS[path.name] for path in on_top if path.name in ("train", "val", "validation")}
    if not splits:
        raise ManifestError(f"{videos}: expected the folders train and val in it (of the Kaggle archive: Data/CLS-LOC)")
    found, flat = Adapted(), set[str]()
    for top, split in splits.items():
        for path in media_files(top, ("image",)):
            place = path.relative_to(top.resolve()).parts
            if len(place) == 1:
                flat.add(path.stem)
                wnid = _class_of(path, labels)
            else:
                wnid = _known(place[0], path, labels)
            found.rows.append(media_row(path, label=wnid, split=split, name=labels.names.get(wnid)))
    if flat:
        found.missing += [name for name in labels.of_picture if name not in flat]
    return found


def _class_of(path: Path, labels: ImageNetLabels) -> str:
    if not labels.of_picture:
        raise ManifestError(
            f"{path}: lies in no folder of a class; give LOC_val_solution.csv, or "
            "ILSVRC2012_validation_ground_truth.txt and map_clsloc.txt"
        )
    if path.stem not in labels.of_picture:
        raise ManifestError(f"{path}: no annotation file has a class for it")
    return _known(labels.of_picture[path.stem], path, labels)


def _known(wnid: str, path: Path, labels: ImageNetLabels) -> str:
    if not WNID.fullmatch(wnid):
        raise ManifestError(
            f"{path.parent}: {wnid!r} is no wnid (n and eight digits); the set 'folder' takes any names"
        )
    if labels.names and wnid not in labels.names:
        raise ManifestError(f"{path}: the annotation files do not know the class {wnid}")
    return wnid
