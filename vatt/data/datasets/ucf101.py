"""UCF101: classInd.txt, trainlist01.txt to trainlist03.txt, testlist01.txt to testlist03.txt."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from vatt.data.datasets.adapted import Adapted, known, label_of
from vatt.data.datasets.media import MediaFiles, media_row
from vatt.data.datasets.reading import files_in, lines_of, whole_number
from vatt.data.manifest import ManifestError

_LIST = re.compile(r"(train|test)list0?([1-9])", re.IGNORECASE)


def ucf101(annotations: Sequence[Path], videos: Path) -> Adapted:
    """UCF101: ``Class/v_Class_g08_c01.avi 1`` for training, the same without the number for testing; three splits.

    A video is one row, with the columns split1, split2, split3: train, test, or empty where a split does not use it.
    The label is the name of the folder in the list, never the number. classInd.txt (``1 ApplyEyeMakeup``), if it is
    given, is what names and numbers are held against. A folder stands for all of its lists.

    Raises:
        ManifestError: a file cannot be read or has another layout, an unknown class, a number that is that of another
            class, or a video that one split has twice; the message names the file and the line.
    """
    paths = files_in(annotations, "*.txt")
    lists = [(path, match) for path in paths if (match := _LIST.fullmatch(path.stem))]
    index = next((path for path in paths if path.name.lower() == "classind.txt"), None)
    if not lists:
        raise ManifestError(f"{paths[0]}: no trainlist01.txt or testlist01.txt was given")
    if others := [path for path in paths if path != index and not _LIST.fullmatch(path.stem)]:
        raise ManifestError(f"{others[0]}: is neither classInd.txt nor trainlist or testlist with the number 1 to 3")
    numbers = _class_numbers(index) if index else {}
    used: dict[str, dict[str, str]] = {}  # video -> its part in each split
    for path, match in lists:
        part, split = match[1].lower(), f"split{match[2]}"
        for place, line in lines_of(path):
            video, number = _entry(line, place)
            label = label_of(video.partition("/")[0], place)
            if index:
                known(label, numbers, place, index)
                if number is not None and numbers[label] != number:
                    raise ManifestError(f"{place}: the class is number {number}, but {label} is {numbers[label]}")
            before = used.setdefault(video, {}).setdefault(split, part)
            if before != part:
                raise ManifestError(f"{place}: {video} is in the {before} list of this split, too")
    splits = sorted({split for parts in used.values() for split in parts})
    found, files = Adapted(), MediaFiles(videos)
    for video, parts in sorted(used.items()):
        label = video.partition("/")[0]
        file = files.find(PurePosixPath(video).stem, inside=(label,))
        if file is None:
            found.missing.append(video)
        else:
            found.rows.append(media_row(file, label=label, **{split: parts.get(split, "") for split in splits}))
    found.notes += files.notes()
    return found


def _entry(line: str, place: str) -> tuple[str, int | None]:
    video, _, number = line.partition(" ")
    if video.count("/") != 1:
        raise ManifestError(f"{place}: expected CLASS/FILE.avi, and a number where it is for training; got {line!r}")
    return video, whole_number(number.strip(), place, "the class") if number.strip() else None


def _class_numbers(path: Path) -> dict[str, int]:
    numbers = {}
    for place, line in lines_of(path):
        number, _, name = line.partition(" ")
        numbers[label_of(name, place)] = whole_number(number, place, "the class")
    return numbers
