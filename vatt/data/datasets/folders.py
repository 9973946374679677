"""Data sets in which a folder is a class: any folder of media files, and ImageNet (ILSVRC2012)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vatt.data.clips import ManifestError
from vatt.data.datasets.reading import files_in, header_of, lines_of, read_text, table, whole_number
from vatt.data.datasets.rows import SPLITS, DatasetRows, label_of
from vatt.data.manifest import media_files, media_row, passed_over
from vatt.files import KINDS
from vatt.json_files import parse_json

WNID = re.compile(r"n\d{8}")
_ID_LINE = re.compile(r"(n\d{8})\s+(\d+)(?:\s+(.+))?")  # map_clsloc.txt
_NAME_LINE = re.compile(r"(n\d{8})\s+(\D.*)")  # LOC_synset_mapping.txt


def folder(annotations: Sequence[Path], videos: Path, *, kind: str | None = None) -> DatasetRows:
    """``CLASS/file`` or ``SPLIT/CLASS/file``: the label is the name of the sub-folder; files below it are its own.

    The top folders are splits if all of them with media in them are named so (train, val, validation, test, ...).

    Args:
        kind: "video", "audio" or "image"; needed where the folder holds several kinds, such as pictures of videos.

    Raises:
        ManifestError: there is no such folder, annotations are given, or there are several kinds and ``kind`` is not.
    """
    if annotations:
        raise ManifestError(f"{annotations[0]}: a folder of classes takes no annotations; its names are the labels")
    root = videos.resolve()
    others = Counter[str]()
    paths = list(media_files(videos, [kind] if kind else list(KINDS), others))
    rows = [media_row(path) for path in paths]
    counts = Counter(next(iter(row)) for row in rows)
    if len(counts) > 1:
        what = ", ".join(f"{number} of {name}" for name, number in counts.items())
        raise ManifestError(f"{videos}: holds several kinds of files ({what}); choose one (--kind)")
    folders = [path.relative_to(root).parts[:-1] for path in paths]
    on_top = {inside[0] for inside in folders if inside}
    has_splits = bool(on_top) and all(name.lower() in SPLITS for name in on_top)
    found = DatasetRows(notes=[*filter(None, (passed_over(others),))])
    for path, row, inside in zip(paths, rows, folders, strict=True):
        if len(inside) < 1 + has_splits:
            found.skipped.append(f"{path.relative_to(root)}: lies in no folder of a class")
            continue
        row["label"] = label_of(inside[int(has_splits)], str(path.parent))
        found.rows.append(row | ({"split": SPLITS[inside[0].lower()]} if has_splits else {}))
    if not has_splits and (named := sorted(name for name in on_top if name.lower() in SPLITS)):
        found.notes.append(f"{', '.join(named)} was taken as a class, because other folders beside it are no splits")
    return found


def imagenet(annotations: Sequence[Path], videos: Path) -> DatasetRows:
    """ImageNet: one row per picture, below train/ and val/ of the folder.

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
    found, flat = DatasetRows(), set[str]()
    for top, split in splits.items():
        for path in media_files(top, ("image",)):
            inside = path.relative_to(top.resolve()).parts
            if len(inside) == 1:
                flat.add(path.stem)
                wnid = _class_of_picture(path, labels)
            else:
                wnid = _known_wnid(inside[0], path, labels)
            found.rows.append(media_row(path, label=wnid, split=split, name=labels.names.get(wnid)))
    if flat:
        found.missing += [name for name in labels.of_picture if name not in flat]
    return found


def _class_of_picture(path: Path, labels: ImageNetLabels) -> str:
    if not labels.of_picture:
        raise ManifestError(
            f"{path}: lies in no folder of a class; give LOC_val_solution.csv, or "
            "ILSVRC2012_validation_ground_truth.txt and map_clsloc.txt"
        )
    if path.stem not in labels.of_picture:
        raise ManifestError(f"{path}: no annotation file has a class for it")
    return _known_wnid(labels.of_picture[path.stem], path, labels)


def _known_wnid(wnid: str, path: Path, labels: ImageNetLabels) -> str:
    if not WNID.fullmatch(wnid):
        raise ManifestError(
            f"{path.parent}: {wnid!r:.40} is no wnid (n and eight digits); the set 'folder' takes any names"
        )
    if labels.names and wnid not in labels.names:
        raise ManifestError(f"{path}: the annotation files do not know the class {wnid}")
    return wnid


@dataclass
class ImageNetLabels:
    """What the files say: names of classes (wnid -> name), and the class of pictures for validation.

    Attributes:
        names: wnid -> the first of its names.
        of_picture: name without suffix -> wnid, in the order of the file.
    """

    names: dict[str, str] = field(default_factory=dict)
    of_picture: dict[str, str] = field(default_factory=dict)


def read_imagenet_labels(paths: Sequence[Path]) -> ImageNetLabels:
    """Reads any of: LOC_synset_mapping.txt (``n01440764 tench, Tinca tinca``), imagenet_class_index.json,
    LOC_val_solution.csv, ILSVRC2012_validation_ground_truth.txt (one number per line), and the mapping that they refer
    to: map_clsloc.txt (``n02119789 1 kit_fox``) or meta.mat of the development kit, or imagenet_2012_validation_
    synset_labels.txt (one wnid per line).

    The numbers of the ground truth are ILSVRC2012_IDs, which are not in the order of the sorted wnids.

    Raises:
        ManifestError: a file cannot be read or is none of these, or a number has no wnid; names the file and the line.
    """
    labels, ids, truths = ImageNetLabels(), dict[int, str](), list[Path]()
    for path in paths:
        if path.suffix.lower() == ".mat":
            for number, wnid in _meta(path, labels).items():
                _same(ids, number, wnid, str(path))
        elif path.suffix.lower() == ".json":
            labels.names |= _class_index(path)
        elif path.suffix.lower() == ".csv":
            _merge(labels, _solution(path), path)
        else:
            first = next(iter(lines_of(path)), ("", ""))[1]
            if first.isdecimal() or WNID.fullmatch(first):
                truths.append(path)
            else:
                _mapping(path, labels, ids)
    for path in truths:
        _merge(labels, _truth(path, ids), path)
    return labels


def _merge(labels: ImageNetLabels, found: dict[str, str], path: Path) -> None:
    for picture, wnid in found.items():
        _same(labels.of_picture, picture, wnid, str(path))


def _same(known: dict[Any, str], key: Any, wnid: str, where: str) -> None:
    """Adds an entry. Raises ManifestError if another file says otherwise, as map_det.txt beside map_clsloc.txt does."""
    if (before := known.setdefault(key, wnid)) != wnid:
        raise ManifestError(f"{where}: {key} is {wnid} here and {before} in another file; give one of the two")


def _truth(path: Path, ids: dict[int, str]) -> dict[str, str]:
    found = {}
    for number, (where, line) in enumerate(lines_of(path), start=1):
        wnid = line
        if not WNID.fullmatch(line):
            if not ids:
                raise ManifestError(
                    f"{path}: its numbers are those of map_clsloc.txt or meta.mat (development kit), which are not the "
                    "order of the sorted classes; give one of these files as well"
                )
            identity = whole_number(line, where, "the class")
            if identity not in ids:
                raise ManifestError(f"{where}: no class has the number {identity}")
            wnid = ids[identity]
        found[f"ILSVRC2012_val_{number:08d}"] = wnid
    return found


def _mapping(path: Path, labels: ImageNetLabels, ids: dict[int, str]) -> None:
    for where, line in lines_of(path):
        if match := _ID_LINE.fullmatch(line):
            _same(ids, int(match[2]), match[1], where)
            labels.names.setdefault(match[1], (match[3] or match[1]).replace("_", " "))
        elif match := _NAME_LINE.fullmatch(line):
            labels.names[match[1]] = match[2].partition(",")[0].strip()
        else:
            raise ManifestError(
                f"{where}: expected a wnid and a name, or a wnid, a number and a name; got {line!r:.80}"
            )


def _class_index(path: Path) -> dict[str, str]:
    try:
        content = parse_json(read_text(path), path, surrogates=True)
        found = {wnid: name.replace("_", " ") for wnid, name in content.values()}
    except (ValueError, TypeError, AttributeError) as error:
        raise ManifestError(f'{path}: expected {{"0": ["n01440764", "tench"], ...}}: {error}') from error
    if odd := [wnid for wnid in found if not WNID.fullmatch(wnid)]:
        raise ManifestError(f"{path}: {odd[0]!r:.40} is no wnid (n and eight digits)")
    return found


def _solution(path: Path) -> dict[str, str]:
    if not {"ImageId", "PredictionString"} <= set(header_of(path)):
        raise ManifestError(f"{path}: is not LOC_val_solution.csv, which has the columns ImageId and PredictionString")
    found = {}
    for where, row in table(path, ()):
        wnid = row["PredictionString"].partition(" ")[0]
        if not WNID.fullmatch(wnid):
            raise ManifestError(f"{where}, column PredictionString: {wnid!r:.40} is no wnid (n and eight digits)")
        found[row["ImageId"]] = wnid
    return found


def _meta(path: Path, labels: ImageNetLabels) -> dict[int, str]:
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise ManifestError(f"{path}: reading it takes scipy (pip install scipy); or give map_clsloc.txt") from error
    try:
        synsets = loadmat(path, squeeze_me=True)["synsets"]
        entries = [(int(one["ILSVRC2012_ID"]), str(one["WNID"]), str(one["words"])) for one in synsets]
    except Exception as error:  # scipy raises many kinds for a file that is not what it should be
        raise ManifestError(f"{path}: cannot be read as meta.mat: {error}") from error
    leaves = [entry for entry in entries if entry[0] <= 1000]  # above are the inner nodes of WordNet
    for _, wnid, words in leaves:
        labels.names.setdefault(wnid, words.partition(",")[0].strip())
    return {number: wnid for number, wnid, _ in leaves}
