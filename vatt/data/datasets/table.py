"""The data sets by name: what each reads, and its options on the command line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vatt.data.datasets.adapted import Adapted
from vatt.data.datasets.audioset import audioset
from vatt.data.datasets.esc50 import esc50
from vatt.data.datasets.folder import folder
from vatt.data.datasets.hmdb51 import hmdb51
from vatt.data.datasets.howto100m import howto100m
from vatt.data.datasets.imagenet import imagenet
from vatt.data.datasets.kinetics import kinetics
from vatt.data.datasets.moments import moments
from vatt.data.datasets.msrvtt import msrvtt
from vatt.data.datasets.ucf101 import ucf101
from vatt.data.datasets.youcook2 import youcook2
from vatt.data.manifest import ManifestError


@dataclass(frozen=True)
class Flag:
    """An option of one set: a keyword of its function. Without choices, and a default of False, it is a switch."""

    name: str
    help: str
    default: Any = None
    choices: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Adapter:
    """A data set.

    Attributes:
        about: the files that it reads, for people.
        least: number of annotation files that it takes at least.
    """

    read: Callable[..., Adapted]
    about: str
    least: int = 1
    flags: tuple[Flag, ...] = ()


_CUT = Flag("cut", "files named by the id alone are cut to the annotated part already", False)

ADAPTERS = {
    "audioset": Adapter(
        audioset,
        "balanced_train_segments.csv, unbalanced_train_segments.csv, eval_segments.csv, class_labels_indices.csv",
        flags=(_CUT, Flag("split", "of all rows, where the names of the files do not say it", None, ("train", "test"))),
    ),
    "esc50": Adapter(esc50, "esc50.csv"),
    "folder": Adapter(
        folder,
        "none: a sub-folder a class, with or without train, val, test above",
        0,
        (Flag("kind", "of files, where the folder has several", None, ("video", "audio", "image")),),
    ),
    "hmdb51": Adapter(hmdb51, "testTrainMulti_7030_splits (the folder), or its <class>_test_split1.txt, ..."),
    "howto100m": Adapter(howto100m, "caption.json, HowTo100M_v1.csv"),
    "imagenet": Adapter(
        imagenet,
        "LOC_synset_mapping.txt, imagenet_class_index.json, LOC_val_solution.csv, or "
        "ILSVRC2012_validation_ground_truth.txt and map_clsloc.txt or meta.mat; none where val has folders of classes",
        0,
    ),
    "kinetics": Adapter(
        kinetics, "train.csv, validate.csv (val.csv), test.csv of Kinetics 400, 600 or 700", 1, (_CUT,)
    ),
    "moments": Adapter(moments, "trainingSet.csv, validationSet.csv, moments_categories.txt"),
    "msrvtt": Adapter(
        msrvtt,
        "MSRVTT_data.json, train_val_videodatainfo.json, test_videodatainfo.json, MSRVTT_JSFUSION_test.csv, "
        "MSRVTT_train.9k.csv",
    ),
    "ucf101": Adapter(ucf101, "ucfTrainTestlist (the folder), or classInd.txt, trainlist01.txt, testlist01.txt, ..."),
    "youcook2": Adapter(youcook2, "youcookii_annotations_trainval.json, label_foodtype.csv"),
}


def adapt(name: str, annotations: Sequence[Path], videos: Path, **options: Any) -> Adapted:
    """The rows of the manifest of a data set.

    Args:
        name: a key of `ADAPTERS`.
        annotations: its published files, told apart by what they hold, or a folder of them.
        videos: folder of its media files, which is searched through.
        options: of the set, see its function.

    Raises:
        ManifestError: no such set, no annotations, or files that cannot be used; the message names the file and line.
    """
    if name not in ADAPTERS:
        raise ManifestError(f"{name}: no such data set; there are {', '.join(ADAPTERS)}")
    adapter = ADAPTERS[name]
    if len(annotations) < adapter.least:
        raise ManifestError(f"{name}: needs annotations: {adapter.about}")
    found = adapter.read(annotations, videos, **options)
    found.missing = list(dict.fromkeys(found.missing))
    return found
