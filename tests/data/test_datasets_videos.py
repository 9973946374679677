"""Videos with classes: small pieces of the published files, in their exact layout."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from vatt.data.clips import ManifestError
from vatt.data.datasets import read_dataset
from vatt.data.manifest import read_clips, write_manifest

FIXTURES = Path(__file__).with_name("fixtures")


def copied(name: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(FIXTURES / name, tmp_path / "annotations"))


def values(rows, *columns):
    return [tuple(row.get(column) for column in columns) for row in rows]


def test_kinetics_cut_and_whole(make, tmp_path):
    folder = make(
        "train/abseiling/-3B32lodo2M_000059_000069.mp4",
        "train/playing_piano/_dbcJuKJQNs_000040_000050.mp4",
        "val/---QUuC4vJs_000084_000094.webm",
        "val/__whole_id_.mkv",
        "test/-hidden-lab_000010_000020.mp4",
    )
    found = read_dataset("kinetics", [FIXTURES / "kinetics"], folder)
    assert values(found.rows, "label", "split", "start", "end", "youtube_id", "is_cc") == [
        (None, "test", None, None, "-hidden-lab", None),
        ("abseiling", "train", None, None, "-3B32lodo2M", "0"),
        ("playing piano", "train", None, None, "_dbcJuKJQNs", "0"),
        ("testifying", "val", None, None, "---QUuC4vJs", None),
        ("abseiling", "val", 3.0, 13.0, "__whole_id_", None),
    ]
    assert found.missing == ["0A-deleted_"]
    assert found.notes[0].startswith("1 rows have no label")
    assert "1 files missing" in found.summary()
    assert "missing: 0A-deleted_" in found.summary()
    cut = read_dataset("kinetics", [FIXTURES / "kinetics" / "validate.csv"], folder, cut=True)
    assert "start" not in cut.rows[1]
    write_manifest(found.rows, tmp_path / "m.jsonl")
    assert [clip.label for clip in read_clips(tmp_path / "m.jsonl").clips][3:] == ["testifying", "abseiling"]


def test_kinetics_takes_the_clip_from_the_folder_of_its_class(make, tmp_path):
    """One video may be annotated twice; tools then cut it into a folder a class, under one name."""
    folder = make("abseiling/abc.mp4", "playing_piano/abc.mp4", "zumba/abc.mp4")
    (tmp_path / "train.csv").write_text(
        "label,youtube_id,time_start,time_end,split\nplaying piano,abc,1,2,train\nyoga,abc,1,2,train\n"
    )
    found = read_dataset("kinetics", [tmp_path / "train.csv"], folder, cut=True)
    assert Path(found.rows[0]["video"]).parent.name == "playing_piano"
    assert found.notes == ["1 names are those of several files, the first path was taken: abc"]


def test_kinetics_errors_name_the_line(make, tmp_path):
    folder, path = make("a.mp4"), tmp_path / "train.csv"
    head = "label,youtube_id,time_start,time_end,split\n"
    for line, words in (
        ("yoga,a,1,2,trian", r"train\.csv, line 2: the split 'trian' is not known"),
        ("yoga,a,1,2", r"train\.csv, line 2: expected 5 values"),
        ("yoga|zumba,a,1,2,train", r"line 2: the label 'yoga\|zumba' has a"),
        (",a,1,2,train", "line 2: the label is empty"),
    ):
        path.write_text(head + line + "\n")
        with pytest.raises(ManifestError, match=words):
            read_dataset("kinetics", [path], folder)
    path.write_text("label,id\n")
    with pytest.raises(ManifestError, match=r"train\.csv: has no column time_end, time_start, youtube_id"):
        read_dataset("kinetics", [path], folder)
    path.write_text(head + "yoga,a,one,2,train\n")
    assert "line 2: start 'one' and end '2' must be seconds" in read_dataset("kinetics", [path], folder).skipped[0]


def test_moments(make):
    folder = make(
        "training/blocking/getty-karate-video-id635808620_4.mp4",
        "training/adult+female+singing/yt-aRbNNtrwYP4_40.mp4",
        "validation/clapping/yt-aRbNNtrwYP4_40.mp4",
    )
    found = read_dataset("moments", [FIXTURES / "moments"], folder)
    assert values(found.rows, "label", "split", "agree", "disagree") == [
        ("blocking", "train", "3", "0"),
        ("adult+female+singing", "train", "4", "1"),
        ("clapping", "val", "2", "1"),
    ]
    assert [Path(row["video"]).parent.name for row in found.rows] == ["blocking", "adult+female+singing", "clapping"]
    assert found.missing == ["clapping/vine-deleted_1.mp4"]
    assert found.notes == []


def test_moments_unknown_class(make, tmp_path):
    notes = copied("moments", tmp_path)
    (notes / "moments_categories.txt").write_text("clapping,0\nblocking,1\n")
    with pytest.raises(ManifestError, match=r"trainingSet\.csv, line 2: the label 'adult\+female\+singing' is not in"):
        read_dataset("moments", [notes], make("a.mp4"))
    (notes / "validationSet.csv").write_text("clapping/a.mp4,clapping\n")
    with pytest.raises(ManifestError, match=r"validationSet\.csv, line 1: expected path,class,agree,disagree"):
        read_dataset("moments", [notes / "validationSet.csv"], make("a.mp4"))


UCF = (
    "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi",
    "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi",
    "HandstandPushups/v_HandStandPushups_g08_c02.avi",
)


def test_ucf101(make, tmp_path):
    found = read_dataset("ucf101", [FIXTURES / "ucf101"], make(*UCF))
    assert values(found.rows, "label", "split1", "split2", "split3") == [
        ("ApplyEyeMakeup", "test", "train", ""),
        ("ApplyEyeMakeup", "train", "test", "train"),
        ("HandstandPushups", "train", "", "test"),
    ]
    assert found.missing == ["YoYo/v_YoYo_g25_c05.avi"]
    write_manifest(found.rows, tmp_path / "m.jsonl")
    clips = read_clips(tmp_path / "m.jsonl").clips
    assert [clip.extra["split1"] for clip in clips] == ["test", "train", "train"]


def test_ucf101_labels_are_those_of_the_names_whatever_the_order(make, tmp_path):
    notes, folder = copied("ucf101", tmp_path), make(*UCF)
    before = read_dataset("ucf101", [notes], folder).rows
    (notes / "classInd.txt").write_text("3 YoYo\n1 ApplyEyeMakeup\n2 HandstandPushups\n")
    for name in ("trainlist01.txt", "testlist01.txt"):
        lines = (notes / name).read_text().splitlines()
        (notes / name).write_text("\n".join(reversed(lines)) + "\n")
    assert read_dataset("ucf101", [notes], folder).rows == before
    assert read_dataset("ucf101", sorted(notes.glob("t*.txt"), reverse=True), folder).rows == before


def test_ucf101_contradictions_are_named(make, tmp_path):
    notes, folder = copied("ucf101", tmp_path), make(*UCF)
    (notes / "classInd.txt").write_text("2 ApplyEyeMakeup\n1 HandstandPushups\n3 YoYo\n")
    with pytest.raises(
        ManifestError, match=r"trainlist01\.txt, line 1: the class is number 1, but ApplyEyeMakeup is 2"
    ):
        read_dataset("ucf101", [notes], folder)
    (notes / "classInd.txt").write_text("1 ApplyEyeMakeup\n2 HandstandPushups\n")
    with pytest.raises(ManifestError, match=r"trainlist01\.txt, line 3: the label 'YoYo' is not in .*classInd\.txt"):
        read_dataset("ucf101", [notes], folder)
    (notes / "classInd.txt").unlink()
    (notes / "testlist01.txt").write_text("YoYo/v_YoYo_g25_c05.avi\n")
    with pytest.raises(ManifestError, match=r"YoYo/v_YoYo_g25_c05\.avi is in the test list of this split, too"):
        read_dataset("ucf101", [notes], folder)


def test_hmdb51(make, tmp_path):
    folder = make(
        "brush_hair/April_09_brush_hair_u_nm_np1_ba_goo_0.avi",
        "brush_hair/brush_#2_&(x)_h_cm_np1_le_goo_0.avi",
        "wave/April_09_wave_u_nm_np1_fr_med_1.mp4",  # converted
    )
    found = read_dataset("hmdb51", [FIXTURES / "hmdb51"], folder)
    assert values(found.rows, "label", "split1", "split2", "split3") == [
        ("brush_hair", "train", "", "test"),
        ("brush_hair", "test", "train", "train"),
        ("wave", "train", "test", ""),
    ]
    assert found.missing == ["wave/gone_wave_u_nm_np1_fr_med_0.avi"]
    notes = copied("hmdb51", tmp_path)
    (notes / "wave_test_split2.txt").write_text("a.avi 1\nb.avi 3\n")
    with pytest.raises(ManifestError, match=r"wave_test_split2\.txt, line 2: expected a file and 0 \(unused\)"):
        read_dataset("hmdb51", [notes], folder)
