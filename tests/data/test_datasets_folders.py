"""Folders of classes, and ImageNet."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vatt.data.clips import ManifestError
from vatt.data.datasets import read_dataset
from vatt.data.manifest import read_clips, write_manifest

PICTURES = Path(__file__).with_name("fixtures") / "imagenet"


def values(rows, *columns):
    return [tuple(row.get(column) for column in columns) for row in rows]


def test_folder_with_and_without_splits(make, tmp_path):
    found = read_dataset(
        "folder", [], make("train/cat/a.mp4", "train/cat/deep/b.webm", "validation/dog/c.mp4", "stray.mp4")
    )
    assert values(found.rows, "label", "split") == [("cat", "train"), ("cat", "train"), ("dog", "val")]
    assert found.skipped == ["stray.mp4: lies in no folder of a class"]
    vehicles = tmp_path / "vehicles"
    for name in ("train/a.wav", "bus/b.wav"):  # a train is a vehicle, too
        (vehicles / name).parent.mkdir(parents=True)
        (vehicles / name).write_bytes(b"x")
    found = read_dataset("folder", [], vehicles)
    assert values(found.rows, "label", "split") == [("bus", None), ("train", None)]
    assert all("audio" in row for row in found.rows)
    assert found.notes[0].startswith("train was taken as a class")
    (vehicles / "bus" / "b.jpg").write_bytes(b"x")
    with pytest.raises(ManifestError, match=r"several kinds of files \(1 of image, 2 of audio\).*--kind"):
        read_dataset("folder", [], vehicles)
    assert len(read_dataset("folder", [], vehicles, kind="image").rows) == 1


def test_folders_that_are_links_are_searched_and_a_loop_ends(make, tmp_path):
    real = tmp_path / "disk" / "cat"
    real.mkdir(parents=True)
    (real / "a.mp4").write_bytes(b"x")
    folder = make("dog/b.mp4")
    (folder / "cat").symlink_to(real)
    (folder / "dog" / "loop").symlink_to(folder)
    assert values(read_dataset("folder", [], folder).rows, "label") == [("cat",), ("dog",)]


def test_folders_whose_names_are_not_utf8_are_two_classes(make, tmp_path):
    names = [os.fsdecode(b"caf\xe9/a.mp4"), os.fsdecode(b"caf\xea/b.mp4")]
    found = read_dataset("folder", [], make(*names))
    assert [row["label"] for row in found.rows] == ["caf\xe9", "caf\xea"]
    write_manifest(found.rows, tmp_path / "m.jsonl")
    assert [clip.label for clip in read_clips(tmp_path / "m.jsonl").clips] == ["caf\xe9", "caf\xea"]


def test_other_files_of_a_folder_are_told(make):
    found = read_dataset("folder", [], make("cat/a.mp4", "dog/b.mp4", "dog/b.xyz", "dog/c.xyz", "dog/b.txt"))
    assert found.notes == ["passed over: 2 .xyz"]


def imagenet_folder(tmp_path, *names):
    for name in names:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(b"x")
    return tmp_path / "in"


TRAIN = ("train/n03126707/n03126707_1.JPEG", "train/n01440764/n01440764_10026.JPEG")
VAL = [f"val/ILSVRC2012_val_0000000{number}.JPEG" for number in (1, 2)]  # the third is missing
CLASSES = ["n01440764", "n03126707"]


def test_imagenet_in_folders_of_classes(tmp_path):
    folder = imagenet_folder(tmp_path, *TRAIN, "val/n02012849/ILSVRC2012_val_00000001.JPEG", "test/x.JPEG")
    for names in ("LOC_synset_mapping.txt", "imagenet_class_index.json", "map_clsloc.txt"):
        found = read_dataset("imagenet", [PICTURES / names], folder)
        assert [(r["label"], r["split"], r["name"]) for r in found.rows] == [
            ("n01440764", "train", "tench"),
            ("n03126707", "train", "crane"),
            ("n02012849", "val", "crane"),  # another class of the same name
        ]
    assert all("name" not in row for row in read_dataset("imagenet", [], folder).rows)
    assert Path(found.rows[0]["image"]).name == "n01440764_10026.JPEG"


@pytest.mark.parametrize(
    "files", [("LOC_val_solution.csv",), ("ILSVRC2012_validation_ground_truth.txt", "map_clsloc.txt")]
)
def test_imagenet_with_val_in_one_folder(tmp_path, files):
    """The numbers of the ground truth are not places among the sorted classes: 2 is the first of these."""
    found = read_dataset("imagenet", [PICTURES / name for name in files], imagenet_folder(tmp_path, *TRAIN, *VAL))
    assert [r["label"] for r in found.rows if r["split"] == "val"] == CLASSES
    assert found.missing == ["ILSVRC2012_val_00000003"]


def test_imagenet_numbers_of_the_development_kit(tmp_path):
    io = pytest.importorskip("scipy.io")
    np = pytest.importorskip("numpy")
    synsets = np.array(
        [
            (1, "n03126707", "crane"),
            (2, "n01440764", "tench, Tinca tinca"),
            (3, "n02012849", "crane"),
            (1001, "n0", ""),
        ],
        dtype=[("ILSVRC2012_ID", object), ("WNID", object), ("words", object)],
    )[:, None]
    io.savemat(tmp_path / "meta.mat", {"synsets": synsets})
    notes = [PICTURES / "ILSVRC2012_validation_ground_truth.txt", tmp_path / "meta.mat"]
    found = read_dataset("imagenet", notes, imagenet_folder(tmp_path, *VAL))
    assert [(r["label"], r["name"]) for r in found.rows] == [("n01440764", "tench"), ("n03126707", "crane")]


def test_imagenet_errors(tmp_path):
    truth = PICTURES / "ILSVRC2012_validation_ground_truth.txt"
    folder = imagenet_folder(tmp_path, *VAL)
    with pytest.raises(ManifestError, match=r"its numbers are those of map_clsloc\.txt or meta\.mat"):
        read_dataset("imagenet", [truth, PICTURES / "LOC_synset_mapping.txt"], folder)
    with pytest.raises(ManifestError, match=r"val_00000001\.JPEG: lies in no folder of a class; give LOC_val_solution"):
        read_dataset("imagenet", [], folder)
    (tmp_path / "truth.txt").write_text("2\n1001\n")
    with pytest.raises(ManifestError, match=r"truth\.txt, line 2: no class has the number 1001"):
        read_dataset("imagenet", [tmp_path / "truth.txt", PICTURES / "map_clsloc.txt"], folder)
    (tmp_path / "names.txt").write_text("n01440764 tench\nwhat is this\n")
    with pytest.raises(ManifestError, match=r"names\.txt, line 2: expected a wnid and a name"):
        read_dataset("imagenet", [tmp_path / "names.txt"], folder)
    with pytest.raises(ManifestError, match=r"'cats' is no wnid"):
        read_dataset("imagenet", [], imagenet_folder(tmp_path / "x", "train/cats/1.JPEG"))
    with pytest.raises(ManifestError, match=r"expected the folders train and val"):
        read_dataset("imagenet", [], imagenet_folder(tmp_path / "y", "n01440764/1.JPEG"))
    unknown = imagenet_folder(tmp_path / "z", "train/n09999999/1.JPEG")
    with pytest.raises(ManifestError, match=r"do not know the class n09999999"):
        read_dataset("imagenet", [PICTURES / "LOC_synset_mapping.txt"], unknown)


def test_imagenet_files_that_disagree_are_refused(make, tmp_path):
    (tmp_path / "map_clsloc.txt").write_text("n02119789 1 kit_fox\nn02100735 2 English_setter\n")
    (tmp_path / "map_det.txt").write_text("n02672831 1 accordion\n")
    (tmp_path / "truth.txt").write_text("1\n2\n")
    with pytest.raises(ManifestError, match=r"map_det\.txt, line 1: 1 is n02672831 here and n02119789 in another file"):
        read_dataset(
            "imagenet", [tmp_path / name for name in ("map_clsloc.txt", "map_det.txt", "truth.txt")], make("a.mp4")
        )
