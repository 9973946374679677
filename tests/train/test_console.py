"""The line of a record: what it says of each loss, of the first step, and of the time to go."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from train.core.console import Reporter, train_line
from train.core.pace import Eta
from train.core.run_folder import RunFolder


def record(**changes):
    found = {"step": 50, "loss": 3.9123, "vidtxt_loss": 3.672, "vidaud_loss": 4.151, "lr": 3e-3, "samples_per_s": 21.3}
    found |= {"step_s": 1.5, "tflops": 0.03, "mfu": None, "data_wait": 0.031, "memory_gb": 1.234}
    found |= {"vidtxt_chance": 4.159, "vidaud_chance": 4.0, "vidaud_audio_cosine": 0.5, "skipped_steps": 0, "time": 0.0}
    return found | {"eta": 192.0, "eta_measured": True} | changes


def test_each_loss_stands_beside_its_chance():
    assert train_line(record(), 260) == (
        "step  50/260  19.2% | loss 3.912 | vid-txt 3.672 (chance 4.16) vid-aud 4.151 (chance 4.00) | lr 3.00e-03 | "
        "21.3 samples/s | data wait 3% | 1.23 GB | ETA 0:03:12"
    )


def test_what_is_alike_or_missing_is_in_the_line():
    line = train_line(record(vidaud_audio_cosine=0.9987, vidtxt_loss=0.0, vidtxt_chance=0.0), 260)
    assert "| vid-txt no captions vid-aud 4.151 (chance 4.00, audio alike 0.999) |" in line


def test_the_first_step_has_no_pace_yet():
    line = train_line(record(step=1, eta=None, step_s=8.24), 260)
    assert line.endswith("| lr 3.00e-03 | first step 8.2 s | data wait 3% | 1.23 GB")


def test_the_pace_of_a_gpu_and_the_time_of_an_evaluation_that_was_not_measured():
    line = train_line(record(mfu=0.321, eta_measured=False), 260)
    assert "| 21.3 samples/s | MFU 32.1% | " in line
    assert line.endswith("| ETA about 0:03:12")


def test_losses_without_a_chance():
    """Of fine-tuning, whose accuracy stands in the same place."""
    labelled = {k: v for k, v in record(accuracy=0.5).items() if k[:3] not in ("vid", "aud")}
    assert "| loss 3.912 | accuracy 0.500 | lr" in train_line(labelled, 260)


@pytest.mark.parametrize("keep", [True, False])
def test_a_record_is_kept_or_only_shown(tmp_path, capsys, keep):
    reporter = Reporter(RunFolder.create(tmp_path / "run", "run"), True, 260)
    reporter.train(record(), keep)
    reporter.close()
    assert "vid-txt 3.672 (chance 4.16)" in capsys.readouterr().out
    assert reporter.folder.metrics.exists() == keep
    if keep:
        assert json.loads(reporter.folder.metrics.read_text())["vidaud_audio_cosine"] == 0.5


def test_the_bar_has_the_time_of_the_line(tmp_path):
    reporter = Reporter(RunFolder.create(tmp_path / "run", "run"), True, 260)
    out = io.StringIO()
    reporter.console = Console(file=out, force_terminal=True, width=100)
    with reporter.progress(0):
        reporter.advance(1)
        reporter.advance(50, Eta(192.0, measured=False))
    assert "50/260" in out.getvalue()
    assert "ETA about 0:03:12" in out.getvalue()
