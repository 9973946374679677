"""One job at a time in the folder of a run: who is refused, who takes over, who waits."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import subprocess
import sys
import threading
import time

import pytest

from train.core import run_lock
from train.core.run_folder import RunFolder
from train.core.run_lock import InUse, RunLock, release_all

OWN = """
import sys, pathlib
sys.path.insert(0, sys.argv[1])
from train.core.run_lock import RunLock
lock = RunLock(pathlib.Path(sys.argv[2]))
print("locked", flush=True)
sys.stdin.readline()
lock._note_ending()
print("ending", flush=True)
sys.stdin.readline()
lock.release()
"""


@pytest.fixture(autouse=True)
def _nothing_stays():
    yield
    release_all()


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A job of another process: (folder, process)."""
    folder = tmp_path_factory.mktemp("other")
    root = run_lock.__file__.rpartition("/train/")[0]
    command = [sys.executable, "-c", OWN, root, str(folder)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "locked\n"
    yield folder, process
    process.kill()
    process.communicate()


def left(folder, **changes):
    """A lock as a process that was killed has left it."""
    lock = RunLock(folder)
    content = {**json.loads(lock.path.read_text()), "pid": gone(), "process": "1", **changes}
    lock.release()
    lock.path.write_text(json.dumps(content))
    return lock.path


def gone():
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_a_lock_names_its_owner_and_is_gone_with_it(tmp_path):
    lock = RunLock(tmp_path)
    content = json.loads((tmp_path / "run.lock").read_text())
    assert (content["host"], content["pid"]) == (socket.gethostname(), os.getpid())
    assert content["started"][:2] == "20"
    with pytest.raises(InUse):
        RunLock(tmp_path)
    lock.release()
    assert not list(tmp_path.iterdir())
    RunLock(tmp_path)


@pytest.mark.parametrize("locks", [True, False], ids=["with locks", "without locks of files"])
def test_a_job_that_runs_keeps_its_folder(other, locks, monkeypatch):
    if not locks:
        monkeypatch.setattr(fcntl, "lockf", no_locks)
    folder, process = other
    with pytest.raises(InUse, match=rf"run.lock: process {process.pid} of .* has this run since .*; wait until"):
        RunFolder.create(folder, "mine")


def no_locks(*arguments):
    raise OSError(errno.ENOLCK, "No locks available")


@pytest.mark.parametrize("locks", [True, False], ids=["with locks", "without locks of files"])
def test_the_lock_of_a_process_that_is_gone_is_taken_over(tmp_path, locks, monkeypatch):
    if not locks:
        monkeypatch.setattr(fcntl, "lockf", no_locks)
    path, said = left(tmp_path), []
    RunLock(tmp_path, said.append)
    assert json.loads(path.read_text())["pid"] == os.getpid()
    assert "is gone; taken over" in said[0]


def test_a_number_that_another_process_has_now_is_no_owner(tmp_path):
    left(tmp_path, pid=os.getppid(), process="1")
    RunLock(tmp_path)


def test_a_live_process_without_the_lock_of_the_file_is_an_owner(tmp_path):
    """As where a disk says that it locks, and does not."""
    left(tmp_path, pid=os.getppid(), process=run_lock.process_now(os.getppid())[1])
    with pytest.raises(InUse):
        RunLock(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", "\0" * 50])
def test_a_lock_that_says_nothing_is_taken_over(tmp_path, content):
    (tmp_path / "run.lock").write_text(content)
    RunLock(tmp_path)


def test_another_host_is_asked_about(tmp_path):
    path = left(tmp_path, host="gpu7", pid=17)
    with pytest.raises(InUse, match=r"process 17 of gpu7 has this run since .* remove .*run.lock and start again"):
        RunLock(tmp_path)
    path.unlink()
    RunLock(tmp_path)


def test_a_job_that_its_scheduler_has_started_again_goes_on_on_another_host(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    left(tmp_path, host="gpu7", job=["slurm 12", 0])
    with pytest.raises(InUse):  # the same start: another task of it
        RunLock(tmp_path)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    RunLock(tmp_path)


def test_a_host_that_was_started_again_has_no_old_processes(tmp_path):
    left(tmp_path, pid=os.getppid(), process=None, boot="another")
    RunLock(tmp_path)


def test_a_job_that_was_told_to_end_is_waited_for(other, monkeypatch):
    folder, process = other
    monkeypatch.setattr(run_lock, "_LOOK", 0.02)
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline() == "ending\n"
    said = []

    def end():
        while not said:
            time.sleep(0.01)
        process.stdin.write("\n")
        process.stdin.flush()

    threading.Thread(target=end).start()
    RunLock(folder, said.append)
    assert "was told to end, and saves; waiting for it" in said[0]
