"""Pretraining that is ended: by signals, a full disk."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.limits import HANG
from tests.train.pretraining import (
    command,
    environment,
    losses,
    refused,
    run,
    words_of,
)
from tests.train.ranks import ROOT


def wait_for(condition, alive):
    """Returns when the condition holds; fails when what could bring it about has ended, or hangs."""
    deadline = time.monotonic() + HANG
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        assert alive() or condition(), "ended before it happened"
        time.sleep(0.2)


def reading_processes(pid):
    """Children of a process: the rest of a job is threads."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.slow
def test_a_signal_ends_the_run_with_a_checkpoint(sample, tmp_path):
    out = tmp_path / "run"
    arguments = command(*words_of(sample, out, "--steps", 5000))
    process = subprocess.Popen(arguments, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True)
    try:
        wait_for((out / "metrics.jsonl").is_file, lambda: process.poll() is None)
        readers = reading_processes(process.pid)
        assert len(readers) == 1
        for reader in readers:  # as the system does when memory is short: the run goes on
            os.kill(reader, signal.SIGKILL)
        before = max(losses(out))
        wait_for(lambda: max(losses(out)) > before + 5, lambda: process.poll() is None)
        readers = reading_processes(process.pid)
        process.send_signal(signal.SIGTERM)
        text = process.communicate(timeout=HANG)[0]
    finally:
        process.kill()
    assert process.returncode == 143, text
    assert "told to stop: this step is finished first" in text
    assert "stopped after step" in text
    assert len(readers) == 1
    assert not any(Path(f"/proc/{reader}").exists() for reader in readers)
    done = max(losses(out))
    assert (out / "checkpoints" / f"step-{done:08d}" / "state.json").is_file()
    text = run("--out", out, "--resume", "--steps", done + 1)
    assert f"resumed from step {done}" in text


@pytest.mark.slow
def test_ctrl_c_under_the_launcher_ends_with_a_checkpoint(sample, tmp_path):
    """The terminal interrupts every process, decoding ones too, and the launcher then terminates them all."""
    out, log = tmp_path / "run", tmp_path / "log"
    with log.open("w") as file:
        launcher = subprocess.Popen(
            command(*words_of(sample, out, "--steps", 5000), ranks=2),
            cwd=ROOT,
            env=environment(),
            stdout=file,
            stderr=file,
            start_new_session=True,
        )

    def any_alive():
        try:
            os.killpg(launcher.pid, 0)
        except ProcessLookupError:
            return False
        return True

    try:
        wait_for((out / "metrics.jsonl").is_file, lambda: launcher.poll() is None)
        os.killpg(launcher.pid, signal.SIGINT)
        launcher.wait(timeout=HANG)  # the launcher leaves at once, before the ranks
        wait_for(lambda: "stopped after step" in log.read_text(), any_alive)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(launcher.pid, signal.SIGKILL)
    done = max(losses(out))
    assert (out / "checkpoints" / f"step-{done:08d}" / "state.json").is_file()
    assert "was ended by" not in log.read_text()


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
        text = run(*words_of(sample, disk / "run", "--steps", 9, "run.save_every=2"), code=1, ranks=2)
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    refused(text, str(disk / "run" / "checkpoints" / "step-00000002"), "cannot write", "No space left")
