"""Reading processes end with the one that started them, however that ends, and nobody waits for them in vain."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from itertools import islice

import pytest

from tests.data.pools import LAYOUT, Numbers, alive, gone, numbers, pool
from tests.limits import HANG
from vatt.data.batches import Interrupted, Plan, read_here


def test_who_waits_can_be_interrupted(opened):
    told = []
    stuck = Numbers({1: lambda: time.sleep(HANG)})
    threading.Timer(0.3, told.append, [True]).start()
    before = time.monotonic()
    with pytest.raises(Interrupted):
        next(opened(stuck, interrupted=lambda: bool(told)))
    assert time.monotonic() - before < HANG / 10
    with pytest.raises(Interrupted):
        next(read_here(stuck, Plan(LAYOUT, 1, 4), lambda: True))


@pytest.mark.parametrize("stuck", [lambda: time.sleep(HANG), lambda: os.kill(os.getpid(), signal.SIGSTOP)])
def test_close_ends_processes_that_are_stuck(opened, stuck):
    each = opened(Numbers({1: stuck}))
    pids = [process.pid for process in each._processes]
    next(opened())  # another one, whose processes hold copies of the pipes of this one
    time.sleep(0.1)
    before = time.monotonic()
    each.close()
    assert not any(map(alive, pids))
    assert time.monotonic() - before < HANG / 10
    each.close()


def test_who_forgets_to_close_leaves_no_process():
    each = pool()
    next(each)
    pids = [process.pid for process in each._processes]
    del each
    gc.collect()
    assert gone(pids)


def test_signals_of_the_terminal_are_ignored(opened):
    each = opened()
    pids = [process.pid for process in each._processes]
    next(each)
    for pid in pids:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(pid, number)
    assert numbers(list(islice(each, 5))[-1])[0] == 20
    assert pids == [process.pid for process in each._processes]


SCRIPT = """
    import sys, threading, time, torch
    from vatt.data.workers import Plan, Pool

    class Sleeper:
        def __init__(self, seconds):
            self.seconds = seconds

        def read(self, task, rows, lost, begin):
            time.sleep(self.seconds)

    def work():
        plan = Plan({{"x": ((2,), torch.uint8)}}, 1, 2)
        pools = [Pool(Sleeper(each), plan, ready=1, workers=2, alive=1e6) for each in {sleep}]
        print(*(process.pid for pool in pools for process in pool._processes), flush=True)
        {wait}

    {run}
"""


@pytest.mark.slow
def test_processes_end_with_their_parent_even_if_it_is_killed():
    script = SCRIPT.format(sleep=[0, HANG], wait="time.sleep(1e6)", run="work()")
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True)
    pids = [int(word) for word in process.stdout.readline().split()]
    assert len(pids) == 4
    assert all(map(alive, pids))
    process.kill()
    process.wait()
    assert gone(pids)


@pytest.mark.slow
@pytest.mark.parametrize("end", ["raise ValueError('no close')", "sys.exit(3)", "import os; os._exit(3)"])
def test_a_job_that_does_not_close_ends_all_the_same(end):
    """Also from a thread that ends before, and while a process is stuck."""
    run = "thread = threading.Thread(target=work); thread.start(); thread.join(); " + end
    script = SCRIPT.format(sleep=2 * [HANG if "raise" in end else 0], wait="globals()['kept'] = pools", run=run)
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG)
    assert done.returncode in (1, 3)
    assert gone(int(word) for word in done.stdout.split())


@pytest.mark.slow
def test_dev_shm_is_not_used(tmp_path):
    """In a container it has 64 MB. Here it is a real file system of 1 MB, and batches have 40."""
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("mounting a small file system needs more rights")
    script = """
        import torch
        from vatt.data.workers import Plan, Pool

        class Ones:
            def read(self, task, rows, lost, begin):
                rows["x"].fill_(1)

        pool = Pool(Ones(), Plan({"x": ((10_000_000,), torch.uint8)}, 1, 4), ready=2, workers=2, alive=1e6)
        print(*(int(next(pool)[0]["x"].sum()) for _ in range(6)))
        pool.close()
    """
    (tmp_path / "script.py").write_text(textwrap.dedent(script))
    mount = "mount -t tmpfs -o size=1m tmpfs /dev/shm"
    command = ["unshare", "-m", "sh", "-c", f"{mount} && exec {sys.executable} {tmp_path / 'script.py'}"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG, env=environment)
    assert done.stdout.split() == ["40000000"] * 6, done.stderr
