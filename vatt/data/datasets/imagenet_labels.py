"""The annotation files of ImageNet (ILSVRC2012), told apart by what they hold."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vatt.data.datasets.reading import header_of, lines_of, read_text, table, whole_number
from vatt.data.manifest import ManifestError

WNID = re.compile(r"n\d{8}")
_ID_LINE = re.compile(r"(n\d{8})\s+(\d+)(?:\s+(.+))?")  # map_clsloc.txt
_NAME_LINE = re.compile(r"(n\d{8})\s+(\D.*)")  # LOC_synset_mapping.txt


@dataclass
class ImageNetLabels:
    """What the files say: names of classes (wnid -> name), and the class of pictures for validation.

    Attributes:
        names: wnid -> the first of its names.
        of_picture: name without ending -> wnid, in the order of the file.
    """

    names: dict[str, str] = field(default_factory=dict)
    of_picture: dict[str, str] = field(default_factory=dict)


def read_imagenet_labels(paths: Sequence[Path]) -> ImageNetLabels:
    """Reads any of: LOC_synset_mapping.txt (``n01440764 tench, Tinca tinca``), imagenet_class_index.json,
    LOC_val_solution.csv, ILSVRC2012_validation_ground_truth.txt (a number a line), and the mapping that these numbers
    refer to: map_clsloc.txt (``n02119789 1 kit_fox``) or meta.mat of the development kit, or imagenet_2012_validation_
    synset_labels.txt (a wnid a line).

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
    for number, (place, line) in enumerate(lines_of(path), start=1):
        wnid = line
        if not WNID.fullmatch(line):
            if not ids:
                raise ManifestError(
                    f"{path}: its numbers are those of map_clsloc.txt or meta.mat (development kit), which are not the "
                    "order of the sorted classes; give one of these files as well"
                )
            identity = whole_number(line, place, "the class")
            if identity not in ids:
                raise ManifestError(f"{place}: no class has the number {identity}")
            wnid = ids[identity]
        found[f"ILSVRC2012_val_{number:08d}"] = wnid
    return found


def _mapping(path: Path, labels: ImageNetLabels, ids: dict[int, str]) -> None:
    for place, line in lines_of(path):
        if match := _ID_LINE.fullmatch(line):
            _same(ids, int(match[2]), match[1], place)
            labels.names.setdefault(match[1], (match[3] or match[1]).replace("_", " "))
        elif match := _NAME_LINE.fullmatch(line):
            labels.names[match[1]] = match[2].partition(",")[0].strip()
        else:
            raise ManifestError(f"{place}: expected a wnid and a name, or a wnid, a number and a name; got {line!r}")


def _class_index(path: Path) -> dict[str, str]:
    try:
        content = json.loads(read_text(path))
        found = {wnid: name.replace("_", " ") for wnid, name in content.values()}
    except (ValueError, TypeError, AttributeError) as error:
        raise ManifestError(f'{path}: expected {{"0": ["n01440764", "tench"], ...}}: {error}') from error
    if odd := [wnid for wnid in found if not WNID.fullmatch(wnid)]:
        raise ManifestError(f"{path}: {odd[0]!r} is no wnid (n and eight digits)")
    return found


def _solution(path: Path) -> dict[str, str]:
    if not {"ImageId", "PredictionString"} <= set(header_of(path)):
        raise ManifestError(f"{path}: is not LOC_val_solution.csv, which has the columns ImageId and PredictionString")
    found = {}
    for place, row in table(path, ()):
        wnid = row["PredictionString"].partition(" ")[0]
        if not WNID.fullmatch(wnid):
            raise ManifestError(f"{place}, column PredictionString: {wnid!r} is no wnid (n and eight digits)")
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
