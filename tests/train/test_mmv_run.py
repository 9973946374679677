"""The convolutional baseline as a user trains it: pretrained, gone on with, evaluated, fine-tuned, embedded."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from tests.train.pretraining import CONSTANT, losses, refused
from tests.train.ranks import run_commands
from vatt.__main__ import main as vatt
from vatt.inference import VATT
from vatt.sample import build

SMALL = [
    *["model.input.size=32", "model.input.frames=8", "model.input.fps=2.5", "data.workers=0", "run.log_every=1"],
    *["run.eval_every=0", "run.batch_size=8"],
]


@pytest.mark.slow
def test_it_goes_through_every_job(tmp_path):
    sample = build(tmp_path / "clips", train=16, val=6, workers=2, say=lambda text: None)
    out, whole, no = tmp_path / "run", tmp_path / "whole", tmp_path / "no"
    words = ["--config", "sample", "--data", sample, "--model", "mmv-tiny", *SMALL, "evaluation.windows=1"]
    words += ["optim.lr=1e-3", *CONSTANT, "run.save_every=2"]
    tuning = ["--config", "sample", "--data", sample, "--steps", 2, *SMALL]
    found = run_commands(tmp_path, [
        ("pretrain", [*words, "--out", whole, "--steps", 3]),
        ("pretrain", [*words, "--out", out, "--steps", 2]),
        ("pretrain", ["--resume", "--out", out, "--steps", 3]),
        ("evaluate", ["--task", "retrieval", "--model", out, "--data", sample, "--split", "val"]),
        ("finetune", [*tuning, "--task", "video", "--label", "motion", "--init", out, "--out", tmp_path / "video"]),
        ("finetune", [*tuning, "--task", "audio", "--label", "shape", "--init", out, "--out", tmp_path / "audio",
                      "freeze_backbone=true"]),
        ("evaluate", ["--task", "probe", "--model", out, "--data", sample, "--modality", "audio", "--label", "shape",
                      "--classifier", "low-rank", "--steps", "2", "--clips", "1"]),
        ("pretrain", [*words, "--out", no, "engine.activation_checkpointing=true"]),
        ("pretrain", [*words, "--out", no, "engine.contrastive_parts=2"]),
    ])  # fmt: skip
    assert [code for _, code in found] == [0] * 7 + [1, 1], found
    refused(found[7][0], "engine.activation_checkpointing")
    refused(found[8][0], "engine.contrastive_parts")
    assert not no.exists()
    assert losses(out) == losses(whole)
    once, twice = (load_file(run / "model" / "model.safetensors") for run in (whole, out))
    assert all(torch.equal(value, twice[name]) for name, value in once.items())
    assert "audio -> video" in found[3][0]
    for name in ("video", "audio"):
        assert json.loads((tmp_path / name / "model" / "config.json").read_text())["network"] == "convolutional"
    tuned = load_file(tmp_path / "audio" / "model" / "model.safetensors")
    kept = {name.removeprefix("backbone."): x for name, x in tuned.items() if name.startswith("backbone.")}
    assert kept
    assert all(torch.equal(value, twice[f"audio.{name}"]) for name, value in kept.items())  # frozen, statistics too
    assert vatt(["embed", str(tmp_path / "clips"), "--modality", "audio", "--model", str(out), "--workers", "0",
                 "--out", str(tmp_path / "e.npy")]) == 0  # fmt: skip
    assert VATT.from_pretrained(out).embed_video(next((tmp_path / "clips").rglob("*.mp4"))).isfinite().all()
