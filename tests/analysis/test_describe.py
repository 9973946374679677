"""``vatt info DIR``: what a model folder or a run holds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tests.inference.library_models import save_classifier, save_model
from vatt.__main__ import main
from vatt.inference import VATT

ROOT = Path(__file__).resolve().parents[2]


def test_a_pretrained_model(tmp_path, capsys):
    folder = save_model(tmp_path / "m")
    assert main(["info", str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    model = VATT.from_pretrained(folder)
    assert found["parameters"]["total"] == sum(p.numel() for p in model.parameters())
    assert found["spaces"]["video"] == {"text": 8, "audio": 12, "features": 16}
    assert found["tokens"] == {"video": 4, "audio": 31, "text": 6}
    assert found["tokenizer"] == model.tokenizer.vocab_size
    assert found["stored"]["tensors"] == len(model.state_dict())
    assert found["config"]["name"] == "vatt-tiny"
    assert main(["info", str(folder)]) == 0
    text = capsys.readouterr().out
    assert "video: text 8, audio 12, features 16; audio: video 12" in text
    assert f"{model.tokenizer.vocab_size} words" in text
    assert all(len(line) <= 120 for line in text.splitlines())


def test_a_classifier_and_a_run(tmp_path, capsys):
    folder = save_classifier(tmp_path / "run" / "model")
    (tmp_path / "run" / "metrics.jsonl").write_text('{"kind": "train", "step": 7, "loss": 1.5}\n{"kind": "eval"}\n')
    (tmp_path / "run" / "checkpoints" / "step-7").mkdir(parents=True)
    assert main(["info", str(tmp_path / "run"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["classes"] == ["left", "right", "up"]
    assert found["parameters"]["classifier"] == 16 * 3 + 3
    assert found["run"] == {"step": 7, "loss": 1.5}
    assert found["checkpoints"] == ["step-7"]
    assert main(["info", str(folder)]) == 0
    assert "3: left, right, up" in capsys.readouterr().out


def test_folders_that_cannot_be_described(tmp_path, capsys):
    folder = save_model(tmp_path / "m")
    shutil.copytree(folder, tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    shutil.copytree(folder, tmp_path / "words")
    (tmp_path / "words" / "tokenizer.json").write_text("{")
    for name, message in (
        ("gone", "no such folder"),
        ("cut", "model.safetensors: cannot"),
        ("words", "tokenizer.json"),
    ):
        assert main(["info", str(tmp_path / name)]) == 1
        assert message in capsys.readouterr().err
    assert main(["info", str(folder), "--model", "vatt-base"]) == 1
    assert "not both" in capsys.readouterr().err
    assert main(["info", "--model", "vatt-bse"]) == 1
    assert "did you mean 'vatt-base'?" in capsys.readouterr().err
