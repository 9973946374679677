"""Pretraining of a small model as tests start it: command lines, and what a run leaves."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.limits import HANG
from tests.train.ranks import ROOT, free_port

SCRIPT = str(ROOT / "train" / "pretrain.py")
LAUNCHER = str(Path(sys.executable).with_name("deepspeed"))
SMALL = [
    *["model.input.size=32", "model.input.frames=8", "model.input.fps=2.5", "data.workers=1", "data.prefetch=2"],
    *["model.video.num_layers=1", "model.waveform.num_layers=1", "model.text.num_layers=1", "model.video.d_ff=64"],
    *[f"model.video.max_{axis}_buckets=2" for axis in ("temporal", "vertical", "horizontal")],
    *["model.waveform.temporal_patch_size=2048", "model.waveform.max_temporal_buckets=75"],
    *["run.log_every=1", "run.eval_every=0", "evaluation.windows=1", "optim.lr=1e-3", "run.batch_size=8"],
]
# Two runs may differ by rounding alone. Adam would move weights whose gradient is 0 by the sign of that, so these use
# SGD; and batch norm over 8 clips makes up to 40 roundings of one (measured), so the losses may differ by many.
SGD = ["optim.kind=sgd", "optim.lr=1e-3"]
NOISE = 1024 * 2.0**-24
CONSTANT = ["optim.final_lr=1e-3", "optim.warmup_steps=0"]  # whatever the number of steps
PARTS = ["engine.contrastive_parts=2", "model.video.dropout_rate=0.2", "model.text.dropout_rate=0.2", "--zero", 2]


def words_of(sample, out, *extra):
    return ["--config", "paper", "--data", sample, "--model", "vatt-tiny", "--out", out, *SMALL, *extra]


def command(*arguments, ranks=None):
    if ranks is None:
        return [sys.executable, SCRIPT, *map(str, arguments)]
    launcher = [sys.executable, LAUNCHER, "--num_gpus", str(ranks), "--master_port", str(free_port())]
    return [*launcher, SCRIPT, *map(str, arguments)]


def environment():
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def run(*arguments, ranks=None, code=0):
    done = subprocess.run(
        command(*arguments, ranks=ranks), cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=HANG
    )
    assert (done.returncode == 0) == (code == 0), done.stdout + done.stderr
    return done.stdout + done.stderr


def records(out, kind="train"):
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


def losses(out):
    return {line["step"]: (line["loss"], line["vidtxt_loss"], line["vidaud_loss"]) for line in records(out)}


def refused(text, *words):
    assert "error: " in text
    assert "Traceback" not in text
    for word in words:
        assert word in text


def copy_with_bad_files(sample, folder, bad):
    """The sample with ``bad`` training videos spoilt, each in another way."""
    shutil.copytree(sample.parent, folder)
    videos = [row["video"] for row in csv.DictReader(sample.open()) if row["split"] == "train"]
    spoil = [
        lambda p: p.write_bytes(b""),
        lambda p: p.write_bytes(p.read_bytes()[: p.stat().st_size // 2]),
        lambda p: p.unlink(),
        lambda p: p.write_text("no video"),
    ]
    for number, name in enumerate(videos[:bad]):
        spoil[number % len(spoil)](folder / name)
    return folder / "manifest.csv"
