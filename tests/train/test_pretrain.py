"""The whole job as a user starts it, in small: real .mp4 files, the DeepSpeed launcher, ends that are not happy."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.train.ranks import ROOT, free_port
from vatt.sample import build

SCRIPT = str(ROOT / "train" / "pretrain.py")
LAUNCHER = str(Path(sys.executable).with_name("deepspeed"))
SMALL = [
    *["model.input.size=32", "model.input.frames=8", "model.input.fps=2.5", "data.workers=1", "data.prefetch=2"],
    *["model.video.num_layers=1", "model.waveform.num_layers=1", "model.text.num_layers=1", "model.video.d_ff=64"],
    *[f"model.video.max_{axis}_buckets=2" for axis in ("temporal", "vertical", "horizontal")],
    *["model.waveform.temporal_patch_size=2048", "model.waveform.max_temporal_buckets=75"],
    *["run.log_every=1", "run.eval_every=0", "evaluation.windows=1", "optim.lr=1e-3", "run.batch_size=8"],
]


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    return build(tmp_path_factory.mktemp("sample") / "clips", train=16, val=12, workers=2, say=lambda text: None)


def command(*arguments, ranks=None):
    if ranks is None:
        return [sys.executable, SCRIPT, *map(str, arguments)]
    launcher = [sys.executable, LAUNCHER, "--num_gpus", str(ranks), "--master_port", str(free_port())]
    return [*launcher, SCRIPT, *map(str, arguments)]


def environment():
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def run(*arguments, ranks=None, code=0, cwd=ROOT):
    done = subprocess.run(
        command(*arguments, ranks=ranks), cwd=cwd, env=environment(), capture_output=True, text=True, timeout=150
    )
    assert (done.returncode == 0) == (code == 0), done.stdout + done.stderr
    return done.stdout + done.stderr


def train(sample, out, *extra, **options):
    return run("--data", sample, "--model", "vatt-tiny", "--out", out, *SMALL, *extra, **options)


def records(out, kind="train"):
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


def losses(out):
    return {line["step"]: (line["loss"], line["vidtxt_loss"], line["vidaud_loss"]) for line in records(out)}


@pytest.mark.slow
def test_a_run_leaves_everything_behind_and_resumes_bit_equal(sample, tmp_path):
    out = tmp_path / "run"
    text = train(sample, out, "--steps", "6", "run.save_every=3", "run.log_every=2")  # step 3: amid a record
    assert "text -> video" in text
    assert "x" in text
    for name in ("config.json", "deepspeed.json", "retrieval.json", "tokenizer.json", "report.html"):
        assert (out / name).stat().st_size > 0
    assert list(out.glob("*.png"))
    assert {p.name for p in (out / "model").iterdir()} == {"config.json", "model.safetensors", "tokenizer.json"}
    assert sorted(losses(out)) == [2, 4, 6]
    assert records(out, "eval")[-1]["text_to_video"]["n"] == 12
    whole, weights = losses(out), load_file(out / "model" / "model.safetensors")
    shutil.rmtree(out / "checkpoints" / "step-00000006")
    shutil.rmtree(out / "model")
    text = run("--out", out, "--resume")
    assert "resumed from step 3" in text
    assert losses(out) == whole
    again = load_file(out / "model" / "model.safetensors")
    assert all(weights[name].equal(again[name]) for name in weights)


@pytest.mark.slow
@pytest.mark.parametrize("zero", [3])  # tests/train/test_engine.py has all stages
def test_two_ranks_under_the_launcher_agree_with_one(sample, tmp_path, zero):
    train(sample, tmp_path / "one", "--steps", "3")
    text = train(sample, tmp_path / "two", "--steps", "3", "--zero", zero, ranks=2)
    assert text.count("step 3/3") == 1  # rank 0 alone speaks
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert one.keys() == two.keys()
    for step in one:
        assert two[step] == pytest.approx(one[step], rel=1e-4)


def wait_for(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.2)


@pytest.mark.slow
def test_a_signal_ends_the_run_with_a_checkpoint(sample, tmp_path):
    out = tmp_path / "run"
    arguments = command("--data", sample, "--model", "vatt-tiny", "--out", out, "--steps", "5000", *SMALL)
    process = subprocess.Popen(arguments, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True)
    try:
        wait_for((out / "metrics.jsonl").is_file)
        process.send_signal(signal.SIGTERM)
        text = process.communicate(timeout=60)[0]
    finally:
        process.kill()
    assert process.returncode == 0, text
    assert "stopped after step" in text
    done = max(losses(out))
    assert (out / "checkpoints" / f"step-{done:08d}" / "state.json").is_file()
    text = run("--out", out, "--resume", "--steps", done + 1)
    assert f"resumed from step {done}" in text


@pytest.mark.slow
def test_ctrl_c_under_the_launcher_ends_with_a_checkpoint(sample, tmp_path):
    """The terminal interrupts every process, decoding ones too, and the launcher then terminates them all."""
    out, log = tmp_path / "run", tmp_path / "log"
    extra = ["--data", sample, "--model", "vatt-tiny", "--out", out, "--steps", "5000", *SMALL]
    with log.open("w") as file:
        arguments = command(*extra, ranks=2)
        launcher = subprocess.Popen(
            arguments, cwd=ROOT, env=environment(), stdout=file, stderr=file, start_new_session=True
        )
    try:
        wait_for((out / "metrics.jsonl").is_file)
        os.killpg(launcher.pid, signal.SIGINT)
        launcher.wait(timeout=60)  # the launcher leaves at once, before the ranks
        wait_for(lambda: "stopped after step" in log.read_text())
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(launcher.pid, signal.SIGKILL)
    done = max(losses(out))
    assert (out / "checkpoints" / f"step-{done:08d}" / "state.json").is_file()
    assert "DataLoader worker" not in log.read_text()


@pytest.mark.slow
def test_a_run_that_never_recovers_is_stopped(sample, tmp_path):
    limits = ["--steps", "20", "optim.lr=1e30", "run.max_skipped_steps=3"]
    refused(train(sample, tmp_path / "run", *limits, code=1), "3 steps in a row gave a loss or gradient", "optim.lr")
    assert records(tmp_path / "run")[-1]["skipped_steps"] == 2


@pytest.mark.slow
def test_a_deepspeed_json_that_deepspeed_refuses(sample, tmp_path):
    own = tmp_path / "own.json"
    own.write_text('{"zero_optimization": {"stag": 0}}')
    refused(train(sample, tmp_path / "run", "--deepspeed-config", own, code=1), str(own), "stag")


@pytest.mark.slow
def test_kernels_that_do_not_exist_are_refused_before_a_folder_is_made(sample, tmp_path):
    text = train(sample, tmp_path / "run", "engine.kernels=cuda", code=1)
    refused(text, "engine.kernels: attention: unknown backend 'cuda'; there are: auto, triton, sdpa")
    assert not (tmp_path / "run").exists()


def tiny_disk(folder, megabytes):
    """Mounts a file system of that size, where this user may."""
    folder.mkdir()
    mount = shutil.which("mount")
    options = ["-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    if mount is None or subprocess.run([mount, *options], capture_output=True).returncode:
        pytest.skip("mounting a small file system needs more rights")


@pytest.mark.slow
def test_a_full_disk_is_named(sample, tmp_path):
    disk = tmp_path / "disk"
    tiny_disk(disk, 2)
    try:
        text = train(sample, disk / "run", "--steps", "9", "run.save_every=2", code=1, ranks=2)
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    refused(text, str(disk / "run" / "checkpoints" / "step-00000002"), "cannot write", "No space left")


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


@pytest.mark.slow
def test_bad_media_are_skipped_listed_and_shown(sample, tmp_path):
    manifest = copy_with_bad_files(sample, tmp_path / "clips", 4)
    text = train(manifest, tmp_path / "run", "--steps", "3", "data.max_bad_share=0.9")
    listed = [json.loads(line) for line in (tmp_path / "run" / "skipped.jsonl").read_text().splitlines()]
    assert {(record["field"]) for record in listed} == {"container", "video"}
    assert len(listed) == 4
    assert "4 skipped" in text
    assert all(record["file"] and record["reason"] for record in listed)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2])
def test_too_many_bad_media_stop_the_run(sample, tmp_path, ranks):
    manifest = copy_with_bad_files(sample, tmp_path / "clips", 12)
    text = train(manifest, tmp_path / "run", "--steps", "50", code=1, ranks=ranks)
    assert "error: " in text
    assert "clips could not be read, more than data.max_bad_share = 0.1 allows" in text
    assert "Traceback" not in text


def refused(text, *words):
    assert "error: " in text
    assert "Traceback" not in text
    for word in words:
        assert word in text


def test_data_that_cannot_be_used(sample, tmp_path):
    wrong = tmp_path / "wrong.csv"
    wrong.write_text("vidoe\na.mp4\n")
    refused(train(wrong, tmp_path / "a", code=1), str(wrong), "vidoe", "did you mean 'video'")
    (tmp_path / "empty").mkdir()
    refused(train(tmp_path / "empty", tmp_path / "b", code=1), str(tmp_path / "empty"), "no video file")


def test_folders_that_cannot_be_written(sample, tmp_path):
    (tmp_path / "file").write_text("x")
    refused(train(sample, tmp_path / "file" / "run", code=1), f"--out {tmp_path / 'file' / 'run'}", "cannot be written")
    refused(train(sample, "/proc/run", code=1), "--out /proc/run", "cannot be written")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("x")
    refused(train(sample, tmp_path / "full", code=1), "holds files", "--resume")
    refused(run("--resume", "--out", tmp_path / "full", code=1), "config.json")


def test_models_and_sizes_that_do_not_fit(sample, tmp_path):
    parts = ["run.batch_size=7", "engine.gradient_accumulation=2"]
    refused(train(sample, tmp_path / "a", *parts, code=1), "run.batch_size")
    refused(train(sample, tmp_path / "b", "model.loss.aud_txt_weight=1", code=1), "loss.aud_txt_weight")
    refused(train(sample, tmp_path / "c", "data.vocabulary=absent.txt", code=1), "absent.txt")
