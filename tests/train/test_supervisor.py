"""A rank and its supervisor under a stand-in for a launcher: who notices whose end, and what becomes of the rank."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.limits import HANG
from tests.train.ranks import ROOT
from train.core.supervisor import process_now

RANK = """
import os, sys, time
sys.path[0] = sys.argv[1]
from train.core import supervisor
supervisor.begin()
from vatt import signals
folder = sys.argv[2]
with signals.put_off():
    open(folder + "/rank", "w").write(str(os.getpid()))
    while signals.received() is None:
        time.sleep(0.01)
    time.sleep(float(sys.argv[3]))
    open(folder + "/saved", "w").write(str(signals.received()))
supervisor.end(signals.status())
os._exit(signals.status())
"""
START = "import subprocess, sys; sys.exit(subprocess.run(sys.argv[{}:]).returncode)"


class Job:
    """deepspeed > its launcher > supervisor, and the rank beside it, whose step lasts some seconds."""

    def __init__(self, folder, step=0.0):
        self.folder = folder
        (folder / "rank.py").write_text(RANK)
        rank = [sys.executable, str(folder / "rank.py"), str(ROOT), str(folder), str(step)]
        launch = [sys.executable, "-c", START.format(2), "deepspeed.launcher.launch", *rank]
        command = [sys.executable, "-c", START.format(2), "/bin/deepspeed", *launch]
        environment = {**os.environ, "RANK": "0"}
        self.deepspeed = subprocess.Popen(
            command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        until(lambda: (folder / "rank").is_file() and (folder / "rank").read_text())
        self.rank = int((folder / "rank").read_text())
        self.launch = child(self.deepspeed.pid)
        self.supervisor = child(self.launch)

    @property
    def saved(self):
        path = self.folder / "saved"
        return int(path.read_text() or 0) if path.is_file() else None


def child(pid):
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def until(condition):
    end = time.monotonic() + HANG
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture
def job(tmp_path):
    jobs = []

    def start(step=0.0):
        jobs.append(Job(tmp_path, step))
        return jobs[-1]

    yield start
    for one in jobs:
        for pid in (one.deepspeed.pid, one.launch, one.supervisor, one.rank):
            if process_now(pid):
                os.kill(pid, signal.SIGKILL)
        one.deepspeed.communicate()


@pytest.mark.parametrize("who", ["deepspeed", "launch"])
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=lambda how: how.name)
def test_a_rank_whose_launcher_has_gone_saves_and_ends(job, who, how):
    """deepspeed itself has no handler of SIGTERM: its launcher and the ranks lived on."""
    if (who, how) == ("launch", signal.SIGTERM):
        pytest.skip("DeepSpeed's launcher hands it on")
    made = job()
    os.kill(made.deepspeed.pid if who == "deepspeed" else made.launch, how)
    until(lambda: process_now(made.rank) is None and process_now(made.supervisor) is None)
    assert made.saved == signal.SIGTERM


def test_a_step_that_lasts_longer_than_the_launchers_patience_is_saved(job):
    """The launcher kills what it has started, and all of its children, 30 seconds after it has told them to end."""
    made = job(step=0.5)
    assert not Path(f"/proc/{made.supervisor}/task/{made.supervisor}/children").read_text()
    os.kill(made.supervisor, signal.SIGTERM)
    time.sleep(0.1)
    os.kill(made.supervisor, signal.SIGKILL)
    until(lambda: process_now(made.rank) is None)
    assert made.saved == signal.SIGTERM


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_a_supervisor_hands_on_signals_and_the_status(job, number):
    made = job()
    os.kill(made.supervisor, number)
    made.deepspeed.communicate(timeout=HANG)
    assert (made.saved, made.deepspeed.returncode) == (number, 128 + number)


def test_what_a_terminal_sends_to_all_counts_once(job):
    """The supervisor hands on what came to the rank as well: that is no second Ctrl-C, which would end it unsaved."""
    made = job(step=1.0)
    for pid in (made.rank, made.supervisor):
        os.kill(pid, signal.SIGINT)
    until(lambda: process_now(made.rank) is None)
    assert made.saved == signal.SIGINT


def test_a_rank_that_is_killed_is_told(job):
    made = job()
    os.kill(made.rank, signal.SIGKILL)
    said = made.deepspeed.communicate(timeout=HANG)[1]
    assert said == (
        f"error: rank 0 (process {made.rank}) was killed, perhaps by the system because memory was short; go on with "
        "--resume: what was saved is whole\n"
    )
    assert made.deepspeed.returncode == 128 + signal.SIGKILL
    assert made.saved is None
