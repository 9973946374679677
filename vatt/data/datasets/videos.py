"""Videos with a class each: Kinetics, Moments in Time, UCF101, HMDB51."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from vatt.data.captions import timed_caption
from vatt.data.clips import ManifestError
from vatt.data.datasets.reading import files_in, lines_of, records, table, whole_number
from vatt.data.datasets.rows import DatasetRows, MediaFiles, cut_names, known_label, label_of, split_of
from vatt.data.manifest import Row, media_row

_KINETICS_COLUMNS = {"label", "split", "youtube_id", "time_start", "time_end"}  # the others are kept


def kinetics(annotations: Sequence[Path], videos: Path, *, cut: bool = False) -> DatasetRows:
    """Kinetics: ``label,youtube_id,time_start,time_end,split`` and further columns (is_cc), which are kept.

    A file is the cut clip, named ``<id>_000010_000020``, or else the whole video, named ``<id>``, of which the row
    takes the range. Folders of classes or splits around the files are looked into. The files for testing have no column
    label, and their rows none. Where there is no column split, the name of the file says it.

    Args:
        cut: files that are named by the id alone are cut already, too.

    Raises:
        ManifestError: a file cannot be read or has another layout; the message names it and the line.
    """
    found, files = DatasetRows(), MediaFiles(videos)
    paths = [path for given in annotations for path in _kinetics_tables(given)]
    for path in paths:
        for where, entry in table(path, ("youtube_id", "time_start", "time_end")):
            name, start, end = entry["youtube_id"], entry["time_start"], entry["time_end"]
            split = split_of(entry["split"], where) if "split" in entry else _last_word(path)
            label = label_of(entry["label"], where) if "label" in entry else None
            inside = (label or "", split or "")
            clip = files.find(*cut_names(name, start, end), inside=inside)
            file = clip or files.find(name, inside=inside)
            if file is None:
                found.missing.append(name)
                continue
            extra: Row = {key: value for key, value in entry.items() if key not in _KINETICS_COLUMNS}
            row = media_row(file, label=label, split=split, youtube_id=name)
            if clip is None and not cut:
                try:
                    span = timed_caption("-", start, end)
                except ValueError as error:
                    found.skipped.append(f"{where}: {error}")
                    continue
                row |= {"start": span.start, "end": span.end}
            found.rows.append(row | extra)
    if unlabelled := sum("label" not in row for row in found.rows):
        found.notes.append(f"{unlabelled} rows have no label; a manifest to fine-tune or evaluate on must do without")
    found.notes += files.notes()
    if any(path.is_dir() for path in annotations):
        found.notes.append(f"read {', '.join(path.name for path in paths)}")
    return found


def _kinetics_tables(path: Path) -> list[Path]:
    """A file, or the tables of a folder; the mirrors of Kinetics-600 have train.txt and val.txt beside test.csv."""
    if not path.is_dir():
        return [path]
    texts = [path / name for name in ("train.txt", "val.txt") if (path / name).is_file()]
    return texts + (files_in([path], "*.csv") if not texts else sorted(path.glob("*.csv")))


def _last_word(path: Path) -> str:
    """The split that the last word of a file's name is, as in kinetics_700_test.csv."""
    words = path.stem.lower().replace("-", "_").split("_")
    return split_of(words[-1], f"{path}: there is no column split, and in the name of the file")


_MOMENTS_CLASSES = "moments_categories.txt"


def moments(annotations: Sequence[Path], videos: Path) -> DatasetRows:
    """Moments in Time: lines ``class/file.mp4,class,agree,disagree`` without a header, the file below training/ or
    validation/. moments_categories.txt (``class,number``), if it is given, is what the classes are checked against.

    Raises:
        ManifestError: a file cannot be read or has another layout, or an unknown class; names the file and the line.
    """
    paths = files_in(annotations, "*Set.csv")
    lists = [path for path in paths if path.name == _MOMENTS_CLASSES]
    lists += [path for given in annotations if (path := given / _MOMENTS_CLASSES).is_file()]
    if lists == paths:
        raise ManifestError(f"{lists[0]}: is the list of classes; give trainingSet.csv or validationSet.csv as well")
    classes = {label for path in lists for _, (label, _) in records(path, (2,), "class,number")}
    found, files = DatasetRows(), MediaFiles(videos)
    for path in paths:
        if path in lists:
            continue
        folder = _moments_folder(path)
        for where, (video, name, agree, disagree) in records(path, (4,), "path,class,agree,disagree"):
            label = label_of(name, where)
            if classes:
                known_label(label, classes, where, lists[0])
            file = files.find(PurePosixPath(video).stem, inside=(folder, *PurePosixPath(video).parent.parts))
            if file is None:
                found.missing.append(video)
                continue
            split = split_of(folder, str(path))
            found.rows.append(media_row(file, label=label, split=split, agree=agree, disagree=disagree))
    found.notes += files.notes()
    return found


def _moments_folder(path: Path) -> str:
    for folder in ("training", "validation", "test"):
        if folder in path.stem.lower():
            return folder
    raise ManifestError(f"{path}: the name must say the split, as trainingSet.csv and validationSet.csv do")


_UCF101_LIST = re.compile(r"(train|test)list0?([1-9])", re.IGNORECASE)


def ucf101(annotations: Sequence[Path], videos: Path) -> DatasetRows:
    """UCF101: ``Class/v_Class_g08_c01.avi 1`` for training, the same without the number for testing; three splits.

    A video is one row, with the columns split1, split2, split3: train, test, or empty where a split does not use it.
    The label is the name of the folder in the list, never the number. classInd.txt (``1 ApplyEyeMakeup``), if it is
    given, is what names and numbers are checked against. A folder stands for all of its lists.

    Raises:
        ManifestError: a file cannot be read or has another layout, an unknown class, a number that is that of another
            class, or a video that one split has twice; the message names the file and the line.
    """
    paths = files_in(annotations, "*.txt")
    lists = [(path, match) for path in paths if (match := _UCF101_LIST.fullmatch(path.stem))]
    index = next((path for path in paths if path.name.lower() == "classind.txt"), None)
    if not lists:
        raise ManifestError(f"{paths[0]}: no trainlist01.txt or testlist01.txt was given")
    if others := [path for path in paths if path != index and not _UCF101_LIST.fullmatch(path.stem)]:
        raise ManifestError(f"{others[0]}: is neither classInd.txt nor trainlist or testlist with the number 1 to 3")
    numbers = _ucf101_numbers(index) if index else {}
    parts: _Parts = defaultdict(dict)
    for path, match in lists:
        part, split = match[1].lower(), f"split{match[2]}"
        for where, line in lines_of(path):
            video, number = _ucf101_entry(line, where)
            label = label_of(video.partition("/")[0], where)
            if index:
                known_label(label, numbers, where, index)
                if number is not None and numbers[label] != number:
                    raise ManifestError(f"{where}: the class is number {number}, but {label} is {numbers[label]}")
            before = parts[label, video.partition("/")[2]].setdefault(split, part)
            if before != part:
                raise ManifestError(f"{where}: {video} is in the {before} list of this split, too")
    return _rows_of_splits(parts, videos)


def _ucf101_entry(line: str, where: str) -> tuple[str, int | None]:
    video, _, number = line.partition(" ")
    if video.count("/") != 1:
        raise ManifestError(
            f"{where}: expected CLASS/FILE.avi, and a number where it is for training; got {line!r:.80}"
        )
    return video, whole_number(number.strip(), where, "the class") if number.strip() else None


def _ucf101_numbers(path: Path) -> dict[str, int]:
    numbers = {}
    for where, line in lines_of(path):
        number, _, name = line.partition(" ")
        numbers[label_of(name, where)] = whole_number(number, where, "the class")
    return numbers


_HMDB51_LIST = re.compile(r"(.+)_test_split([1-9])")
_HMDB51_PARTS = {"0": "", "1": "train", "2": "test"}


def hmdb51(annotations: Sequence[Path], videos: Path) -> DatasetRows:
    """HMDB51: files ``<class>_test_split1.txt`` with lines ``name.avi 1``: 0 unused, 1 train, 2 test; three splits.

    A video is one row, with the columns split1, split2, split3: train, test, or empty where a split does not use it.
    The label is the class in the name of the file. A folder stands for all of its files.

    Raises:
        ManifestError: a file cannot be read or has another name or layout; the message names it and the line.
    """
    parts: _Parts = defaultdict(dict)
    for path in files_in(annotations, "*_test_split*.txt"):
        match = _HMDB51_LIST.fullmatch(path.stem)
        if match is None:
            raise ManifestError(f"{path}: the name must be <class>_test_split1.txt, with the number 1 to 3")
        label = label_of(match[1], str(path))
        for where, line in lines_of(path):
            video, _, flag = line.rpartition(" ")
            if not video or flag not in _HMDB51_PARTS:
                raise ManifestError(f"{where}: expected a file and 0 (unused), 1 (train) or 2 (test), got {line!r:.80}")
            parts[label, video.strip()][f"split{match[2]}"] = _HMDB51_PARTS[flag]
    return _rows_of_splits(parts, videos)


_Parts = dict[tuple[str, str], dict[str, str]]  # (class, video) -> its part (train, test or "") in each split


def _rows_of_splits(parts: _Parts, videos: Path) -> DatasetRows:
    """One row per video, with a column for each of the official splits."""
    splits = sorted({split for of_video in parts.values() for split in of_video})
    found, files = DatasetRows(), MediaFiles(videos)
    for (label, video), of_video in sorted(parts.items()):
        file = files.find(PurePosixPath(video).stem, inside=(label,))
        if file is None:
            found.missing.append(f"{label}/{video}")
        else:
            found.rows.append(media_row(file, label=label, **{split: of_video.get(split, "") for split in splits}))
    found.notes += files.notes()
    return found
