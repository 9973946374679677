"""HowTo100M, AudioSet and ImageNet, what all adapters share, and the commands, on small pieces of the real formats."""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path

import pytest

from vatt.__main__ import main as vatt
from vatt.cli.data import add_arguments
from vatt.data.captions import Caption
from vatt.data.datasets import ADAPTERS, adapt
from vatt.data.datasets.__main__ import main as first_command
from vatt.data.datasets.json_items import json_items
from vatt.data.manifest import ManifestError, read_clips

FIXTURES = Path(__file__).with_name("fixtures")
HOW, SETS, PICTURES = FIXTURES / "howto100m", FIXTURES / "audioset", FIXTURES / "imagenet"


@pytest.fixture
def videos(tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ("nVC-aaaaaaa.mp4", "--PJHxphWEs.mkv", "--PJHxphWEs.wav", "--aaaaaaaaa_0.flac"):
        (folder / name).write_bytes(b"x")
    return folder


def test_howto100m(videos):
    found = adapt("howto100m", [HOW / "HowTo100M_v1.csv", HOW / "caption.json"], videos)
    assert [list(map(tuple, row["captions"].columns().values())) for row in found.rows] == [
        [(0.0, 2.5), (2.5, 4.0), ("hi today we cut an onion", "hold the knife 🔪 like this")]
    ]
    assert found.rows[0]["label"] == "Food and Entertaining"
    assert found.rows[0]["task_id"] == "4711"
    assert found.missing == ["deleted-123"]
    assert found.left_out == ["nVC-aaaaaaa: ends at 8 s, before its start at 9 s"]


def test_audioset_of_videos_and_sound_files(videos):
    found = adapt("audioset", [SETS / "balanced_train_segments.csv", SETS / "class_labels_indices.csv"], videos)
    assert [(r.get("start"), r.get("end"), r["label"], r["split"]) for r in found.rows] == [
        (30.0, 40.0, "Speech|Gush", "train"),
        (None, None, "Speech", "train"),  # already cut out
    ]
    assert Path(found.rows[0]["video"]).name == "--PJHxphWEs.mkv"  # not the sound file beside it
    assert Path(found.rows[1]["audio"]).name == "--aaaaaaaaa_0.flac"
    assert found.missing == ["--gone00000"]
    cut = adapt("audioset", [SETS / "balanced_train_segments.csv"], videos, cut=True, split="test")
    assert "start" not in cut.rows[0]
    assert [r["split"] for r in cut.rows] == ["test", "test"]
    assert cut.rows[0]["label"] == "/m/09x0r|/t/dd00088"


def test_audioset_names_a_label_that_it_does_not_know(videos, tmp_path):
    (tmp_path / "eval_segments.csv").write_text('# one\n--PJHxphWEs, 0.000, 10.000, "/m/nothing"\n')
    with pytest.raises(ManifestError, match=r"eval_segments\.csv, line 2: the label '/m/nothing' is not in .*indices"):
        adapt("audioset", [tmp_path / "eval_segments.csv", SETS / "class_labels_indices.csv"], videos)


def test_the_flags_of_the_first_command_still_work(videos, tmp_path, capsys):
    out = tmp_path / "m.jsonl"
    arguments = ["howto100m", "--captions", str(HOW / "caption.json"), "--videos", str(videos), "--out", str(out)]
    assert first_command([*arguments, "--details", str(HOW / "HowTo100M_v1.csv")]) == 0
    assert "1 rows; 1 files missing; 1 entries left out" in capsys.readouterr().out
    clips = read_clips(out).clips
    assert [(clip.start, tuple(clip.captions)) for clip in clips] == [
        (None, (Caption("hi today we cut an onion", 0.0, 2.5), Caption("hold the knife 🔪 like this", 2.5, 4.0)))
    ]
    assert clips[0].label == "Food and Entertaining"
    segments = ["audioset", "--segments", str(SETS / "balanced_train_segments.csv")]
    assert first_command([*segments, "--videos", str(videos), "--out", str(out)]) == 0
    assert [clip.kind for clip in read_clips(out).clips] == ["video", "audio"]
    empty = tmp_path / "empty"
    empty.mkdir()
    assert first_command([*segments, "--videos", str(empty), "--out", str(out)]) == 1
    assert "not one annotated file" in capsys.readouterr().err


def test_the_command_writes_a_manifest_and_the_missing_names(videos, tmp_path, capsys):
    out, missing = tmp_path / "m.jsonl", tmp_path / "missing.txt"
    arguments = ["data", "audioset", "--annotations", str(SETS / "balanced_train_segments.csv")]
    arguments += ["--annotations", str(SETS / "class_labels_indices.csv"), "--videos", str(videos)]
    assert vatt([*arguments, "--out", str(out), "--missing", str(missing)]) == 0
    shown = capsys.readouterr().out
    assert "2 rows; 1 files missing" in shown
    assert "missing: --gone00000" in shown
    assert missing.read_text() == "--gone00000\n"
    assert [clip.label for clip in read_clips(out).clips] == ["Speech|Gush", "Speech"]
    assert vatt([*arguments, "--out", str(tmp_path / "m.csv")]) == 1
    assert "must end in .jsonl" in capsys.readouterr().err
    assert vatt([*arguments[:-1], str(tmp_path / "absent"), "--out", str(out)]) == 1
    assert "error:" in capsys.readouterr().err


def test_files_of_another_layout_are_named(videos, tmp_path):
    (tmp_path / "c.json").write_text(json.dumps({"id": ["a", "b"]}))
    with pytest.raises(ManifestError, match=r"c\.json, video id: expected start, end and text"):
        adapt("howto100m", [tmp_path / "c.json"], videos)
    (tmp_path / "s.csv").write_text("# comment\nabc, 1, 2\n")
    with pytest.raises(ManifestError, match=r"s\.csv, line 2: expected YTID"):
        adapt("audioset", [tmp_path / "s.csv"], videos)
    with pytest.raises(ManifestError, match="is the list of labels; give a file of segments"):
        adapt("audioset", [SETS / "class_labels_indices.csv"], videos)
    with pytest.raises(ManifestError, match="no such folder of media files"):
        adapt("howto100m", [HOW / "caption.json"], tmp_path / "absent")
    (tmp_path / "c.json").write_text("{")
    with pytest.raises(ManifestError, match=r"c\.json: is not JSON"):
        adapt("howto100m", [tmp_path / "c.json"], videos)


def test_every_set_refuses_what_is_not_there(videos, tmp_path):
    for name, adapter in ADAPTERS.items():
        with pytest.raises(ManifestError, match=r"absent\.csv"):
            adapt(name, [tmp_path / "absent.csv"], videos)
        if adapter.least:
            with pytest.raises(ManifestError, match=f"{name}: needs annotations"):
                adapt(name, [], videos)
    with pytest.raises(ManifestError, match="there are audioset, esc50"):
        adapt("kinetic", [], videos)


def test_the_commands_of_the_documentation_are_understood():
    text = (Path(__file__).parents[2] / "docs" / "datasets.md").read_text().replace("\\\n", " ")
    commands = [
        shlex.split(line)[2:] for line in text.splitlines() if line.startswith("vatt data") and "..." not in line
    ]
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    assert {parser.parse_args(command).set for command in commands} == {*ADAPTERS, "check"}


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
        found = adapt("imagenet", [PICTURES / names], folder)
        assert [(r["label"], r["split"], r["name"]) for r in found.rows] == [
            ("n01440764", "train", "tench"),
            ("n03126707", "train", "crane"),
            ("n02012849", "val", "crane"),  # another class of the same name
        ]
    assert all("name" not in row for row in adapt("imagenet", [], folder).rows)
    assert Path(found.rows[0]["image"]).name == "n01440764_10026.JPEG"


@pytest.mark.parametrize(
    "files", [("LOC_val_solution.csv",), ("ILSVRC2012_validation_ground_truth.txt", "map_clsloc.txt")]
)
def test_imagenet_with_val_in_one_folder(tmp_path, files):
    """The numbers of the ground truth are not places among the sorted classes: 2 is the first of these."""
    found = adapt("imagenet", [PICTURES / name for name in files], imagenet_folder(tmp_path, *TRAIN, *VAL))
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
    found = adapt("imagenet", notes, imagenet_folder(tmp_path, *VAL))
    assert [(r["label"], r["name"]) for r in found.rows] == [("n01440764", "tench"), ("n03126707", "crane")]


def test_imagenet_errors(tmp_path):
    truth = PICTURES / "ILSVRC2012_validation_ground_truth.txt"
    folder = imagenet_folder(tmp_path, *VAL)
    with pytest.raises(ManifestError, match=r"its numbers are those of map_clsloc\.txt or meta\.mat"):
        adapt("imagenet", [truth, PICTURES / "LOC_synset_mapping.txt"], folder)
    with pytest.raises(ManifestError, match=r"val_00000001\.JPEG: lies in no folder of a class; give LOC_val_solution"):
        adapt("imagenet", [], folder)
    (tmp_path / "truth.txt").write_text("2\n1001\n")
    with pytest.raises(ManifestError, match=r"truth\.txt, line 2: no class has the number 1001"):
        adapt("imagenet", [tmp_path / "truth.txt", PICTURES / "map_clsloc.txt"], folder)
    (tmp_path / "names.txt").write_text("n01440764 tench\nwhat is this\n")
    with pytest.raises(ManifestError, match=r"names\.txt, line 2: expected a wnid and a name"):
        adapt("imagenet", [tmp_path / "names.txt"], folder)
    with pytest.raises(ManifestError, match=r"'cats' is no wnid"):
        adapt("imagenet", [], imagenet_folder(tmp_path / "x", "train/cats/1.JPEG"))
    with pytest.raises(ManifestError, match=r"expected the folders train and val"):
        adapt("imagenet", [], imagenet_folder(tmp_path / "y", "n01440764/1.JPEG"))
    unknown = imagenet_folder(tmp_path / "z", "train/n09999999/1.JPEG")
    with pytest.raises(ManifestError, match=r"do not know the class n09999999"):
        adapt("imagenet", [PICTURES / "LOC_synset_mapping.txt"], unknown)


@pytest.mark.parametrize("chunk", [1, 2, 7, 1000])
def test_a_large_object_is_read_entry_by_entry(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr("vatt.data.datasets.json_items.CHUNK", chunk)
    value = {"a": {"text": ["x \u2028 y", 'quoted "}" {'], "start": [1.25, 1e3]}, "b": 12345, "é": [], "d": None}
    path = tmp_path / "c.json"
    for text in (json.dumps(value), json.dumps(value, indent=2, ensure_ascii=False) + "\n", "{ }"):
        path.write_text(text)
        assert dict(json_items(path)) == json.loads(text)
    for text in ('{"a": 1', '{"a": 1,', '{"a" 1}', '{"a": 1}}', "[1]", "", '{"a": [1, }', "{1: 2}"):
        path.write_text(text)
        with pytest.raises(ManifestError, match=r"c\.json: is not JSON"):
            list(json_items(path))


def test_imagenet_files_that_disagree_are_refused(videos, tmp_path):
    (tmp_path / "map_clsloc.txt").write_text("n02119789 1 kit_fox\nn02100735 2 English_setter\n")
    (tmp_path / "map_det.txt").write_text("n02672831 1 accordion\n")
    (tmp_path / "truth.txt").write_text("1\n2\n")
    with pytest.raises(ManifestError, match=r"map_det\.txt, line 1: 1 is n02672831 here and n02119789 in another file"):
        adapt("imagenet", [tmp_path / name for name in ("map_clsloc.txt", "map_det.txt", "truth.txt")], videos)
