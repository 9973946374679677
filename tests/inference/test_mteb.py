"""The adapter for MTEB: which space a task is done in, and, where mteb is installed, tasks made of small files."""

from __future__ import annotations

import csv
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.data.media import RATE, write
from tests.inference.library_models import save_model, small_config
from vatt.__main__ import main
from vatt.extras import install
from vatt.inference import SpaceError
from vatt.inference import mteb as adapter
from vatt.inference.mteb import MTEBModel, parts_of

needs_mteb = pytest.mark.skipif(
    find_spec("mteb") is None or find_spec("datasets") is None, reason="mteb is not installed: extra mteb"
)


@pytest.mark.parametrize(
    ("own", "other", "expected"),
    [
        (["text"], ["video"], [("text", "video")]),
        (["video"], ["text"], [("video", "text")]),
        (["image"], ["text"], [("image", "text")]),
        (["video"], ["audio"], [("video", "audio")]),
        (["audio"], ["video"], [("audio", "video")]),
        (["video", "audio"], ["text"], [("video", "text")]),  # sound and text do not meet
        (["text"], ["video", "audio"], [("text", "video")]),
        (["audio", "text"], ["video"], [("text", "video")]),  # one space on both sides
        (["video"], ["audio", "text"], [("video", "text")]),
        (["video", "text"], ["audio"], [("video", "audio")]),
        (["audio"], [], [("audio", "features")]),
        (["video", "audio"], [], [("video", "features"), ("audio", "features")]),
        (["text"], ["text"], [("text", "features")]),
    ],
)
def test_both_sides_of_a_task_are_in_one_space(own, other, expected):
    assert parts_of(small_config(), own, other) == expected


def test_sound_and_words_meet_in_a_joint_space_alone():
    with pytest.raises(SpaceError, match=r"^ESC50_Zeroshot: vatt-tiny has no space .* compare audio with text$"):
        parts_of(small_config(), ["audio"], ["text"], "ESC50_Zeroshot")
    joint = small_config(head="joint")
    assert parts_of(joint, ["audio"], ["text"]) == [("audio", "video")]
    assert parts_of(joint, ["audio", "video"], ["text"]) == [("video", "text"), ("audio", "video")]


@pytest.mark.parametrize(
    ("category", "modalities", "prompt", "own", "expected"),
    [
        ("t2v", ["text", "video"], "query", ["text"], {"video"}),
        ("v2a", ["video", "audio"], "document", ["video"], {"audio"}),  # a pair whose sides are both called documents
        ("vt2t", ["video", "text"], "query", ["text", "video"], {"text"}),
        ("va2va", ["video", "audio"], None, ["video", "audio"], {"video", "audio"}),
        ("va2t", ["video", "text"], None, ["video"], {"text"}),  # UCF101VideoZeroShotClassification, without the sound
        ("a2t", ["audio"], None, ["audio"], set()),  # AudioSetMini: its classes are no texts
        ("v2c", ["video"], None, ["video"], set()),
        ("t2t", ["audio", "text"], None, ["text"], {"audio"}),
    ],
)
def test_the_other_side_of_a_task_is_told_by_its_modalities(category, modalities, prompt, own, expected):
    task = SimpleNamespace(category=category, modalities=modalities)
    assert adapter._others(task, prompt and SimpleNamespace(value=prompt), own) == expected


class Table(dict):
    """As much of a ``datasets.Dataset`` as sentences need."""

    column_names = ("text",)

    def __len__(self):
        return len(self["text"])


def test_what_cannot_be_embedded_is_a_random_vector_of_its_own(tmp_path):
    model = MTEBModel.from_pretrained(save_model(tmp_path / "model"))
    task = SimpleNamespace(name="T", category="t2v", modalities=["text", "video"])
    inputs = SimpleNamespace(dataset=Table(text=["a red circle", "qwxyz", None, "red circle a"]))
    x = torch.from_numpy(model.encode(inputs, task_metadata=task, hf_split="test", hf_subset="default"))
    torch.testing.assert_close(x.norm(dim=1), torch.ones(4))
    assert (x[1] @ x[2]).abs() < 0.99, "two that are damaged would find each other"
    torch.testing.assert_close(x[0], model.model.embed_text(["a red circle"])[0])
    assert [line.partition(":")[0] for line in model.faults] == ["T, item 1", "T, item 2"]


def test_without_the_package_the_command_names_the_extra(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(adapter, "find_spec", lambda name: None)
    assert main(["mteb", "--model", str(tmp_path)]) == 1
    line = f"error: vatt mteb: the package mteb is not installed: {install('mteb')}\n"
    assert capsys.readouterr().err == line


def test_similarities_are_cosines():
    model = MTEBModel(model=None, name="a/b", revision="")
    a, b = np.array([[3.0, 4.0], [1.0, 0.0]]), np.array([[0.0, 2.0], [5.0, 0.0]])
    np.testing.assert_allclose(model.similarity(a, b), [[0.8, 0.6], [0.0, 1.0]], atol=1e-6)
    np.testing.assert_allclose(model.similarity_pairwise(a, b), [0.8, 1.0], atol=1e-6)


@pytest.fixture
def manifest(tmp_path):
    """Eight short videos with sound: a caption that two of them share, one without a known word, and two classes."""
    words = ["a red circle spins", "a red circle spins", "the blue star moves", "qwxyz"]
    with (tmp_path / "all.csv").open("w", newline="") as file:
        rows = csv.DictWriter(file, ["video", "caption", "label", "split"])
        rows.writeheader()
        for number in range(8):
            draw = np.random.default_rng(number)
            frames = draw.integers(0, 256, (20, 32, 32, 3), np.uint8)
            sound = draw.uniform(-0.5, 0.5, 2 * RATE).astype(np.float32)
            video = write(tmp_path / f"{number}.mp4", frames, sound=sound)
            rows.writerow(
                {
                    **{"video": video.name, "caption": words[number % 4], "label": "ab"[number % 2]},
                    "split": "train" if number < 4 else "val",
                }
            )
    return tmp_path / "all.csv"


@pytest.mark.slow
@needs_mteb
def test_tasks_of_a_manifest_give_what_the_library_gives(manifest, tmp_path, capsys, monkeypatch):
    from datasets import Audio, Dataset
    from mteb.models.models_protocols import EncoderProtocol

    folder = save_model(tmp_path / "model")
    out = tmp_path / "results"
    command = ["mteb", "--model", str(folder), "--data", str(manifest), "--out", str(out), "--workers", "0"]
    assert main([*command, "--name", "me/tiny"]) == 0
    done = capsys.readouterr()
    names = [line.split()[0] for line in done.out.splitlines()[:-1]]
    assert names == ["LocalA2V", "LocalT2V", "LocalV2T", "LocalVideoClassification", "LocalAudioClassification"]
    assert "LocalT2V, item 2: text: 'qwxyz' holds no word" in done.err
    assert len(list(out.rglob("Local*.json"))) == 5
    model = MTEBModel.from_pretrained(folder, workers=0)
    assert isinstance(model, EncoderProtocol)
    assert model.mteb_model_meta.revision == model.revision
    inside = [manifest.parent / f"{number}.mp4" for number in range(8)]
    sounds = Dataset.from_dict({"audio": [{"bytes": path.read_bytes(), "path": path.name} for path in inside]})
    loader = SimpleNamespace(dataset=sounds.cast_column("audio", Audio()))  # as public tasks have them: bytes
    task = SimpleNamespace(name="ESC50", category="a2c", modalities=["audio"])
    found = model.encode(loader, task_metadata=task, hf_split="test", hf_subset="default")
    expected = torch.nn.functional.normalize(model.model.embed_audio(inside, space="features"), dim=-1)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert main(["mteb", "--model", str(folder), "--tasks", "MSRVTTT2W"]) == 1
    assert "error: --tasks: " in capsys.readouterr().err
