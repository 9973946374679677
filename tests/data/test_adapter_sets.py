"""The other data sets: small pieces of the published files, in their exact layout."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from vatt.data.datasets import adapt, write_manifest
from vatt.data.manifest import ManifestError, read_clips

FIXTURES = Path(__file__).with_name("fixtures")


@pytest.fixture
def make(tmp_path):
    """Makes a folder of empty files; reading manifests does not open them."""

    def files(*names: str) -> Path:
        folder = tmp_path / "media"
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(b"x")
        return folder

    return files


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
    found = adapt("kinetics", [FIXTURES / "kinetics"], folder)
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
    cut = adapt("kinetics", [FIXTURES / "kinetics" / "validate.csv"], folder, cut=True)
    assert "start" not in cut.rows[1]
    write_manifest(found.rows, tmp_path / "m.jsonl")
    assert [clip.label for clip in read_clips(tmp_path / "m.jsonl").clips][3:] == ["testifying", "abseiling"]


def test_kinetics_takes_the_clip_from_the_folder_of_its_class(make, tmp_path):
    """One video may be annotated twice; tools then cut it into a folder a class, under one name."""
    folder = make("abseiling/abc.mp4", "playing_piano/abc.mp4", "zumba/abc.mp4")
    (tmp_path / "train.csv").write_text(
        "label,youtube_id,time_start,time_end,split\nplaying piano,abc,1,2,train\nyoga,abc,1,2,train\n"
    )
    found = adapt("kinetics", [tmp_path / "train.csv"], folder, cut=True)
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
            adapt("kinetics", [path], folder)
    path.write_text("label,id\n")
    with pytest.raises(ManifestError, match=r"train\.csv: has no column time_end, time_start, youtube_id"):
        adapt("kinetics", [path], folder)
    path.write_text(head + "yoga,a,one,2,train\n")
    assert "line 2: start 'one' and end '2' must be seconds" in adapt("kinetics", [path], folder).left_out[0]


def test_moments(make):
    folder = make(
        "training/blocking/getty-karate-video-id635808620_4.mp4",
        "training/adult+female+singing/yt-aRbNNtrwYP4_40.mp4",
        "validation/clapping/yt-aRbNNtrwYP4_40.mp4",
    )
    found = adapt("moments", [FIXTURES / "moments"], folder)
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
        adapt("moments", [notes], make("a.mp4"))
    (notes / "validationSet.csv").write_text("clapping/a.mp4,clapping\n")
    with pytest.raises(ManifestError, match=r"validationSet\.csv, line 1: expected path,class,agree,disagree"):
        adapt("moments", [notes / "validationSet.csv"], make("a.mp4"))


UCF = (
    "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi",
    "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi",
    "HandstandPushups/v_HandStandPushups_g08_c02.avi",
)


def test_ucf101(make, tmp_path):
    found = adapt("ucf101", [FIXTURES / "ucf101"], make(*UCF))
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
    before = adapt("ucf101", [notes], folder).rows
    (notes / "classInd.txt").write_text("3 YoYo\n1 ApplyEyeMakeup\n2 HandstandPushups\n")
    for name in ("trainlist01.txt", "testlist01.txt"):
        lines = (notes / name).read_text().splitlines()
        (notes / name).write_text("\n".join(reversed(lines)) + "\n")
    assert adapt("ucf101", [notes], folder).rows == before
    assert adapt("ucf101", sorted(notes.glob("t*.txt"), reverse=True), folder).rows == before


def test_ucf101_contradictions_are_named(make, tmp_path):
    notes, folder = copied("ucf101", tmp_path), make(*UCF)
    (notes / "classInd.txt").write_text("2 ApplyEyeMakeup\n1 HandstandPushups\n3 YoYo\n")
    with pytest.raises(
        ManifestError, match=r"trainlist01\.txt, line 1: the class is number 1, but ApplyEyeMakeup is 2"
    ):
        adapt("ucf101", [notes], folder)
    (notes / "classInd.txt").write_text("1 ApplyEyeMakeup\n2 HandstandPushups\n")
    with pytest.raises(ManifestError, match=r"trainlist01\.txt, line 3: the label 'YoYo' is not in .*classInd\.txt"):
        adapt("ucf101", [notes], folder)
    (notes / "classInd.txt").unlink()
    (notes / "testlist01.txt").write_text("YoYo/v_YoYo_g25_c05.avi\n")
    with pytest.raises(ManifestError, match=r"YoYo/v_YoYo_g25_c05\.avi is in the test list of this split, too"):
        adapt("ucf101", [notes], folder)


def test_hmdb51(make, tmp_path):
    folder = make(
        "brush_hair/April_09_brush_hair_u_nm_np1_ba_goo_0.avi",
        "brush_hair/brush_#2_&(x)_h_cm_np1_le_goo_0.avi",
        "wave/April_09_wave_u_nm_np1_fr_med_1.mp4",  # converted
    )
    found = adapt("hmdb51", [FIXTURES / "hmdb51"], folder)
    assert values(found.rows, "label", "split1", "split2", "split3") == [
        ("brush_hair", "train", "", "test"),
        ("brush_hair", "test", "train", "train"),
        ("wave", "train", "test", ""),
    ]
    assert found.missing == ["wave/gone_wave_u_nm_np1_fr_med_0.avi"]
    notes = copied("hmdb51", tmp_path)
    (notes / "wave_test_split2.txt").write_text("a.avi 1\nb.avi 3\n")
    with pytest.raises(ManifestError, match=r"wave_test_split2\.txt, line 2: expected a file and 0 \(unused\)"):
        adapt("hmdb51", [notes], folder)


def test_esc50(make, tmp_path):
    folder = make("audio/1-100032-A-0.wav", "audio/1-17367-A-10.wav", "audio/5-9032-A-0.wav")
    path = FIXTURES / "esc50" / "esc50.csv"
    found = adapt("esc50", [path], folder)
    assert values(found.rows, "label", "fold", "target", "take") == [
        ("dog", "1", "0", "A"),
        ("rain", "1", "10", "A"),
        ("dog", "5", "0", "A"),
    ]
    assert all("audio" in row for row in found.rows)
    assert found.missing == ["2-gone-A-36.wav"]
    changed = tmp_path / "esc50.csv"
    changed.write_text(path.read_text().replace("5-9032-A-0.wav,5,0", "5-9032-A-0.wav,5,7"))
    with pytest.raises(ManifestError, match=r"esc50\.csv, line 4: the target of dog is 7, and 0 further above"):
        adapt("esc50", [changed], folder)
    changed.write_text(path.read_text().replace("5-9032-A-0.wav,5,0", "5-9032-A-0.wav,6,0"))
    with pytest.raises(ManifestError, match="line 4: the fold '6'"):
        adapt("esc50", [changed], folder)


def test_youcook2(make, tmp_path):
    folder = make("training/113/GLd3aX16zBg.mp4", "validation/405/xHr8X2Wpmno.webm")
    notes = FIXTURES / "youcook2" / "youcookii_annotations_trainval.json"
    names = FIXTURES / "youcook2" / "label_foodtype.csv"
    found = adapt("youcook2", [notes, names], folder)
    assert values(found.rows, "start", "end", "caption", "label", "split") == [
        (90.0, 102.0, "spread margarine on two slices of white bread", "grilled cheese", "train"),
        (114.0, 127.0, "place a slice of cheese on the bread", "grilled cheese", "train"),
        (47.0, 60.0, "pick the ends off the verdalago", "caesar salad", "val"),
    ]
    assert found.missing == ["deleted-vid"]  # once, though it has two segments
    assert found.left_out == ["xHr8X2Wpmno, segment 1: ends at 70 s, before its start at 70 s"]
    assert adapt("youcook2", [notes], folder).rows[0]["label"] == "113"
    write_manifest(found.rows, tmp_path / "m.jsonl")
    assert len(read_clips(tmp_path / "m.jsonl").clips[0].captions) == 2
    (tmp_path / "label_foodtype.csv").write_text("405,caesar salad\n")
    with pytest.raises(ManifestError, match=r"video GLd3aX16zBg: the label '113' is not in .*label_foodtype"):
        adapt("youcook2", [notes, tmp_path / "label_foodtype.csv"], folder)


CLIPS = ("video0.mp4", "video6513.mp4", "video7010.mp4", "video9770.mp4")
QUERY = "a person is connecting something to system"


def test_msrvtt_1k_a(make, tmp_path):
    queries = FIXTURES / "msrvtt" / "MSRVTT_JSFUSION_test.csv"
    folder = make(*CLIPS)
    found = adapt("msrvtt", [queries], folder)
    assert values(found.rows, "caption", "split", "video_id") == [(QUERY, "test", "video9770")]
    assert found.missing == ["video9771"]
    both = adapt("msrvtt", [queries, FIXTURES / "msrvtt" / "MSRVTT_data.json"], folder)
    assert values(both.rows, "video_id", "split", "caption", "category") == [
        ("video0", "train", "a man is driving", "9"),
        ("video0", "train", "a car is shown", "9"),
        ("video6513", "train", "the first of the val clip", "16"),
        ("video6513", "train", "the second of the val clip", "16"),
        ("video7010", "train", "a test clip outside of 1k-A", "10"),
        ("video9770", "test", QUERY, "10"),
    ]
    listed = adapt("msrvtt", [FIXTURES / "msrvtt"], folder)  # the folder has the list of 7k as well
    assert values(listed.rows, "video_id", "split") == [("video0", "train")] * 2 + [("video9770", "test")]
    assert listed.notes == ["2 clips are neither in the test file nor in the list for training"]
    write_manifest(listed.rows, tmp_path / "m.jsonl")
    clips = read_clips(tmp_path / "m.jsonl").of_split("test")
    assert [[caption.text for caption in clip.captions] for clip in clips] == [[QUERY]]


def test_msrvtt_official_splits(make):
    found = adapt("msrvtt", [FIXTURES / "msrvtt" / "MSRVTT_data.json"], make(*CLIPS))
    assert values(found.rows, "video_id", "split", "caption") == [
        ("video0", "train", "a man is driving"),
        ("video0", "train", "a car is shown"),
        ("video6513", "val", "the first of the val clip"),
        ("video7010", "test", "a test clip outside of 1k-A"),
        ("video9770", "test", "something with wires"),
    ]
    assert found.notes == ["3 held-out clips have their first sentence as query; the others are left out"]


def test_msrvtt_errors(make, tmp_path):
    folder, path = make(*CLIPS), tmp_path / "test.csv"
    path.write_text("key,vid_key,video_id,sentence\nret0,m,video0,one\nret1,m,video0,two\n")
    with pytest.raises(ManifestError, match=r"test\.csv, line 3: video0 has a sentence already"):
        adapt("msrvtt", [path], folder)
    path.write_text("video_id\nvideo0\nvideo77\n")
    with pytest.raises(ManifestError, match=r"test\.csv, line 3: no \.json file has the clip video77"):
        adapt("msrvtt", [path, FIXTURES / "msrvtt" / "MSRVTT_data.json"], folder)
    other = tmp_path / "x.json"
    other.write_text('{"videos": [], "sentences": [{"video_id": "video5", "sen_id": 0, "caption": "a"}]}')
    with pytest.raises(ManifestError, match=r"x\.json, sentences, item 0: video5 is not among the videos"):
        adapt("msrvtt", [other], folder)


def test_folder_with_and_without_splits(make, tmp_path):
    found = adapt("folder", [], make("train/cat/a.mp4", "train/cat/deep/b.webm", "validation/dog/c.mp4", "stray.mp4"))
    assert values(found.rows, "label", "split") == [("cat", "train"), ("cat", "train"), ("dog", "val")]
    assert found.left_out == ["stray.mp4: lies in no folder of a class"]
    vehicles = tmp_path / "vehicles"
    for name in ("train/a.wav", "bus/b.wav"):  # a train is a vehicle, too
        (vehicles / name).parent.mkdir(parents=True)
        (vehicles / name).write_bytes(b"x")
    found = adapt("folder", [], vehicles)
    assert values(found.rows, "label", "split") == [("bus", None), ("train", None)]
    assert all("audio" in row for row in found.rows)
    assert found.notes[0].startswith("train was taken as a class")
    (vehicles / "bus" / "b.jpg").write_bytes(b"x")
    with pytest.raises(ManifestError, match=r"several kinds of files \(1 of image, 2 of audio\).*--kind"):
        adapt("folder", [], vehicles)
    assert len(adapt("folder", [], vehicles, kind="image").rows) == 1


def test_folders_that_are_links_are_searched_and_a_loop_ends(make, tmp_path):
    real = tmp_path / "disk" / "cat"
    real.mkdir(parents=True)
    (real / "a.mp4").write_bytes(b"x")
    folder = make("dog/b.mp4")
    (folder / "cat").symlink_to(real)
    (folder / "dog" / "loop").symlink_to(folder)
    assert values(adapt("folder", [], folder).rows, "label") == [("cat",), ("dog",)]
