"""Items in processes of their own: whatever an item does to its process, each ends with a result or a reason."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.limits import HANG
from vatt.isolated import StartError, run_isolated


def behave(item: str) -> str:
    """What a decoder may do to its process."""
    if item == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if item == "hang":
        time.sleep(HANG)
    if item == "leave":
        os._exit(3)
    if item == "raise":
        raise OSError("broken")
    if item == "greedy":
        return str(len(bytearray(4 << 30)))
    return item.upper()


@pytest.mark.slow
def test_a_crash_or_a_hang_costs_one_item_alone():
    items = ["a", "crash", "b", "hang", "leave", "raise", "greedy", "c", "d"]
    found = dict(run_isolated(behave, items, workers=2, seconds=3))  # long enough for the others on a loaded machine
    assert {item: getattr(result, "reason", result) for item, result in found.items()} == {
        "a": "A",
        "b": "B",
        "c": "C",
        "d": "D",
        "crash": "the process ended with signal SIGSEGV",
        "hang": "took more than 3 s",
        "leave": "the process ended with status 3",
        "raise": "OSError: broken",
        "greedy": "takes more memory than a process may have",
    }


SLOW_IMPORT = """
import time
print("importing", flush=True)
time.sleep(2)
def work(item):
    return item
"""
INTERRUPTED = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite that a script runs in the background ignores it
import slow_import
from vatt.isolated import run_isolated
if __name__ == "__main__":
    try:
        list(run_isolated(slow_import.work, [1], workers=1, seconds=60))
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""


def test_ctrl_c_while_processes_import_is_no_traceback(tmp_path):
    """It goes to all processes of a terminal, to the server that forks them, too."""
    (tmp_path / "slow_import.py").write_text(SLOW_IMPORT)
    (tmp_path / "job.py").write_text(INTERRUPTED)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path.cwd())])}
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True)
    with subprocess.Popen([sys.executable, str(tmp_path / "job.py")], **pipes) as job:
        for _ in range(2):  # its own import, then that of the server
            assert job.stdout.readline() == "importing\n"
        time.sleep(0.3)
        os.killpg(job.pid, signal.SIGINT)
        out, error = job.communicate(timeout=HANG)
    assert (out, error) == ("interrupted\n", "")


def test_items_may_follow_from_results():
    waiting, running, found = ["a"], 0, []

    def items():
        nonlocal running
        while waiting or running:
            if not waiting:
                yield None
                continue
            running += 1
            yield waiting.pop()

    for item, result in run_isolated(behave, items(), workers=2, seconds=HANG):
        running -= 1
        found.append(result)
        waiting += [item + "b", item + "c"] if len(item) < 3 else []
    assert sorted(found) == ["A", "AB", "ABB", "ABC", "AC", "ACB", "ACC"]


class Unreadable:
    """Cannot be made again in another process, so that none can start its work."""

    def __call__(self, item: str) -> str:
        return item

    def __reduce__(self):
        return (os._exit, (4,))


def test_processes_that_cannot_start_end_the_job():
    with pytest.raises(RuntimeError, match="could not start: the process ended with status 4"):
        list(run_isolated(Unreadable(), ["a"], workers=1, seconds=HANG))


def test_a_machine_that_starts_no_process_is_told(monkeypatch):
    """As the server of processes does that has itself found no room: its pipe ends."""

    def ended(self):
        raise EOFError

    monkeypatch.setattr(multiprocessing.context.ForkServerProcess, "start", ended)
    with pytest.raises(StartError, match=r"^no process can be started: the server of processes has ended; see .*ulim"):
        list(run_isolated(behave, ["a"], workers=1, seconds=HANG))


HOLD = """
import os, signal
from pathlib import Path

def hold(item):
    Path(item).write_text(str(os.getpid()))
    os.kill(os.getpid(), signal.SIGSTOP)
"""


@pytest.mark.parametrize("fork", [False, True])
def test_a_process_that_is_stuck_ends_with_its_parent_even_if_that_is_killed(tmp_path, fork):
    (tmp_path / "holding.py").write_text(HOLD)
    pid, path = tmp_path / "pid", os.pathsep.join([str(tmp_path), *sys.path])
    script = (
        "from holding import hold; from vatt.isolated import run_isolated\n"
        f"if __name__ == '__main__': list(run_isolated(hold, [{str(pid)!r}], workers=1, seconds=1e6, fork={fork}))\n"
    )
    (tmp_path / "job.py").write_text(script)
    job = subprocess.Popen([sys.executable, tmp_path / "job.py"], env={**os.environ, "PYTHONPATH": path})
    end = time.monotonic() + HANG
    while not (pid.is_file() and pid.read_text()):
        assert time.monotonic() < end
        assert job.poll() is None
        time.sleep(0.02)
    job.kill()
    job.wait()
    while Path(f"/proc/{pid.read_text()}/stat").exists():
        assert time.monotonic() < end, "a process that does not end"
        time.sleep(0.02)
