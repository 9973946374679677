"""The published annotation files of data sets, read to rows of a manifest.

``vatt data NAME --annotations FILE ... --videos DIR --out NAME.jsonl``; docs/datasets.md has a section for each set.
A data set is a function in one of the files here and an entry in `DATASETS`. Files that are not in the folder (deleted
from the web, not downloaded) are counted and listed, not fatal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vatt.data.clips import ManifestError
from vatt.data.datasets.folders import folder, imagenet
from vatt.data.datasets.rows import DatasetRows
from vatt.data.datasets.sounds import audioset, esc50
from vatt.data.datasets.text_video import howto100m, msrvtt, youcook2
from vatt.data.datasets.videos import hmdb51, kinetics, moments, ucf101

__all__ = ["DATASETS", "DatasetInfo", "DatasetRows", "Flag", "read_dataset"]


@dataclass(frozen=True)
class Flag:
    """An option of one set: a keyword of its function. Without choices, and a default of False, it is a switch."""

    name: str
    help: str
    default: Any = None
    choices: tuple[str, ...] | None = None


@dataclass(frozen=True)
class DatasetInfo:
    """A data set on the command line.

    Attributes:
        read: called with (annotations, videos) and the flags.
        about: the files that it reads, for people.
        least: number of annotation files that it takes at least.
    """

    read: Callable[..., DatasetRows]
    about: str
    least: int = 1
    flags: tuple[Flag, ...] = ()


_CUT = Flag("cut", "files named by the id alone are cut to the annotated part already", False)

DATASETS = {
    "audioset": DatasetInfo(
        audioset,
        "balanced_train_segments.csv, unbalanced_train_segments.csv, eval_segments.csv, class_labels_indices.csv",
        flags=(_CUT, Flag("split", "of all rows, where the names of the files do not say it", None, ("train", "test"))),
    ),
    "esc50": DatasetInfo(esc50, "esc50.csv"),
    "folder": DatasetInfo(
        folder,
        "none: a sub-folder a class, with or without train, val, test above",
        0,
        (Flag("kind", "of files, where the folder has several", None, ("video", "audio", "image")),),
    ),
    "hmdb51": DatasetInfo(hmdb51, "testTrainMulti_7030_splits (the folder), or its <class>_test_split1.txt, ..."),
    "howto100m": DatasetInfo(howto100m, "caption.json, HowTo100M_v1.csv"),
    "imagenet": DatasetInfo(
        imagenet,
        "LOC_synset_mapping.txt, imagenet_class_index.json, LOC_val_solution.csv, or "
        "ILSVRC2012_validation_ground_truth.txt and map_clsloc.txt or meta.mat; none where val has folders of classes",
        0,
    ),
    "kinetics": DatasetInfo(
        kinetics, "train.csv, validate.csv (val.csv), test.csv of Kinetics 400, 600 or 700", 1, (_CUT,)
    ),
    "moments": DatasetInfo(moments, "trainingSet.csv, validationSet.csv, moments_categories.txt"),
    "msrvtt": DatasetInfo(
        msrvtt,
        "MSRVTT_data.json, train_val_videodatainfo.json, test_videodatainfo.json, MSRVTT_JSFUSION_test.csv, "
        "MSRVTT_train.9k.csv",
    ),
    "ucf101": DatasetInfo(
        ucf101, "ucfTrainTestlist (the folder), or classInd.txt, trainlist01.txt, testlist01.txt, ..."
    ),
    "youcook2": DatasetInfo(youcook2, "youcookii_annotations_trainval.json, label_foodtype.csv"),
}


def read_dataset(name: str, annotations: Sequence[Path], videos: Path, **options: Any) -> DatasetRows:
    """The rows of the manifest of a data set.

    Args:
        name: a key of `DATASETS`.
        annotations: its published files, told apart by what they hold, or a folder of them.
        videos: folder of its media files, which is searched through.
        options: of the set, see its function.

    Raises:
        ManifestError: no such set, no annotations, or files that cannot be used; the message names the file and line.
    """
    if name not in DATASETS:
        raise ManifestError(f"{name}: no such data set; there are {', '.join(DATASETS)}")
    info = DATASETS[name]
    if len(annotations) < info.least:
        raise ManifestError(f"{name}: needs annotations: {info.about}")
    found = info.read(annotations, videos, **options)
    found.missing = list(dict.fromkeys(found.missing))
    return found
