"""A spectrogram model as a user trains it: waveforms in the batches, the log-mel inside the model."""

from __future__ import annotations

import json

import pytest

from tests.train.pretraining import SMALL, records, refused
from tests.train.ranks import run_commands
from vatt.__main__ import main as vatt
from vatt.inference import VATT
from vatt.sample import build

# A window of 3.2 s has 150 Fourier transforms: 9 patches of 16 steps.
SPECTROGRAM = [
    *["model.audio_input=spectrogram", "model.spectrogram.num_layers=1", "model.spectrogram.d_ff=64"],
    *["model.spectrogram.temporal_patch_size=16", "model.spectrogram.max_spectoral_buckets=4"],
]


@pytest.mark.slow
def test_it_trains_goes_on_is_evaluated_and_embeds(tmp_path, capsys):
    sample = build(tmp_path / "clips", train=16, val=6, workers=2, say=lambda text: None)
    out = tmp_path / "run"
    words = ["--config", "sample", "--data", sample, "--out", out, *SMALL, *SPECTROGRAM]
    found = run_commands(tmp_path, [
        ("pretrain", [*words, "--steps", 2, "run.save_every=1"]),
        ("pretrain", ["--resume", "--out", out, "--steps", 3]),
        ("evaluate", ["--task", "retrieval", "--model", out, "--data", sample, "--split", "val"]),
        ("pretrain", [*words, "--out", tmp_path / "no", "model.input.frames=16"]),
    ])  # fmt: skip
    assert [code for _, code in found] == [0, 0, 0, 1], found
    assert [line["step"] for line in records(out)] == [1, 2, 3]
    assert "audio -> video" in found[2][0]
    refused(found[3][0], "spectrogram.max_temporal_buckets: 9 positions", "300 steps", "18 patches")
    assert not (tmp_path / "no").exists()
    assert vatt(["embed", str(tmp_path / "clips"), "--modality", "audio", "--model", str(out), "--workers", "0",
                 "--out", str(tmp_path / "e.npy")]) == 0  # fmt: skip
    config = json.loads((out / "model" / "config.json").read_text())
    assert config["audio_input"] == "spectrogram"
    model = VATT.from_pretrained(out)
    assert model.embed_audio(next((tmp_path / "clips").rglob("*.mp4"))).isfinite().all()
