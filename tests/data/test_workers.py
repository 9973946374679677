"""Reading processes: whatever becomes of them, batches come in order and whole, and nobody waits in vain."""

from __future__ import annotations

import contextlib
import errno
import faulthandler
import gc
import io
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from itertools import islice
from pathlib import Path

import pytest
import torch

from tests.limits import HANG
from vatt.data import workers as module
from vatt.data.slots import NoRoom, Slots
from vatt.data.workers import Interrupted, Plan, Pool, WorkerFault, read_here
from vatt.errors import UserError

LAYOUT = {"x": ((3, 5), torch.uint8), "y": ((), torch.float32), "large": ((1 << 15,), torch.int16)}


class Numbers:
    """Writes the number of the task into its rows; ``at``: what else is done at a task, once per process tree."""

    def __init__(self, at=None, tell=lambda task: None):
        self.at, self.tell = at or {}, tell

    def read(self, task, rows, lost, begin):
        begin(0)
        if task in self.at and not lost:
            self.at[task]()
        for x in rows.values():
            x.fill_(task % 100)
        return lost or self.tell(task)


def pool(work=None, tasks=4, total=None, rows=1, ready=2, workers=2, **options):
    plan = Plan(LAYOUT, rows, tasks, total)
    return Pool(work or Numbers(), plan, ready=ready, workers=workers, **{"alive": HANG, **options})


@pytest.fixture
def opened():
    """Makes pools, and closes them."""
    made = []

    def make(*arguments, **options):
        made.append(pool(*arguments, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


def numbers(batch):
    """What was written, the same in all tensors of a row."""
    rows, _ = batch
    found = rows["y"].tolist()
    for x in rows.values():
        assert x.flatten(1).float().eq(rows["y"][:, None]).all() if x.ndim > 1 else True
    return found


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"


def gone(pids):
    end = time.monotonic() + HANG
    while any(map(alive, pids)):
        assert time.monotonic() < end, "processes that do not end"
        time.sleep(0.01)
    return True


@pytest.mark.parametrize("workers", [1, 3])
def test_batches_are_whole_and_in_order(opened, workers):
    slow = {task: lambda: time.sleep(0.05) for task in (0, 5, 6)}
    found = [numbers(batch) for batch in islice(opened(Numbers(slow), workers=workers), 6)]
    assert found == [list(range(4 * n, 4 * n + 4)) for n in range(6)]


def test_the_last_batch_is_shorter_and_the_same_without_processes(opened):
    work, plan = Numbers(tell=lambda task: f"task {task}" if task % 3 == 0 else None), Plan(LAYOUT, 2, 4, 10)
    here = list(read_here(work, plan))
    there = list(opened(work, total=10, rows=2))
    assert [numbers(batch) for batch in here] == [numbers(batch) for batch in there]
    assert [told for _, told in here] == [told for _, told in there]
    assert there[2][1] == [None, "task 9"]
    assert numbers(there[2]) == [8, 8, 9, 9]


def test_a_batch_is_valid_as_long_as_it_is_held(opened):
    """More of them than there is memory for: the others are copies. Small tensors keep no memory."""
    kept = list(islice(opened(), 9))
    assert [numbers(batch)[0] for batch in kept] == [4 * n for n in range(9)]
    each = opened()
    places = set()
    small = []
    for rows, _ in islice(each, 30):
        places.add(rows["large"].data_ptr())
        small.append(rows["y"])
        del rows
    assert len(places) <= 3  # batches that are in memory
    assert each._slots.held <= 1
    assert [y[0].item() for y in small] == [4 * n % 100 for n in range(30)]


def test_memory_is_freed_when_the_last_batch_is(opened):
    each = opened()
    (rows, _) = next(each)
    each.close()
    assert numbers((rows, []))[0] == 0
    assert each._slots.held == 1
    view = rows["large"][1:2]
    del rows
    gc.collect()
    assert each._slots.held == 1
    del view
    assert each._slots.held == 0
    with pytest.raises(StopIteration):
        next(each)


@pytest.mark.parametrize(
    ("end", "how"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGKILL), r"was ended by SIGKILL \(so the system ends a process when"),
        (lambda: (faulthandler.disable(), os.abort()), "was ended by SIGABRT"),
        (lambda: os._exit(7), "ended with status 7"),
    ],
)
def test_a_process_that_dies_is_replaced_and_its_task_is_told(opened, end, how):
    each = opened(Numbers({5: end, 13: end}), workers=2)
    found = list(islice(each, 5))
    assert [numbers(batch)[0] for batch in found] == [0, 4, 8, 12, 16]
    told = {4 * n + k: told for n, (_, answers) in enumerate(found) for k, told in enumerate(answers) if told}
    assert told.keys() == {5, 13}
    assert all(re.match(f"the process that read it {how}", lost[0]) for lost in told.values())


def test_each_attempt_that_kills_is_told(opened):
    class Deadly:
        def read(self, task, rows, lost, begin):
            for attempt in range(3):
                begin(attempt)
                if task == 2 and attempt not in lost:
                    os.kill(os.getpid(), signal.SIGKILL)
            return sorted(lost)

    each = opened(Deadly(), workers=1)
    assert next(each)[1] == [[], [], [0, 1, 2], []]
    assert next(each)[1] == [[]] * 4


def test_processes_that_die_of_nothing_are_replaced(opened):
    each = opened(workers=2)
    next(each)
    for n in range(1, 30):
        for process in each._processes:
            os.kill(process.pid, signal.SIGKILL)
        rows, answers = next(each)
        assert numbers((rows, answers))[0] == 4 * n % 100
        del rows


@pytest.mark.slow
def test_processes_that_are_killed_at_any_moment_lose_nothing(opened):
    """A tenth of a second of work for each batch, and a death every few milliseconds."""
    chance = random.Random(0)
    work = Numbers(tell=lambda task: time.sleep(0.002))
    each, over = opened(work, workers=4, ready=3, tasks=8), threading.Event()

    def kill():
        while not over.wait(0.004 * chance.random()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(chance.choice(each._processes).pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        lost = 0
        for n in range(20):
            rows, answers = next(each)
            assert numbers((rows, answers)) == [task % 100 for task in range(8 * n, 8 * n + 8)]
            lost += sum(answer is not None for answer in answers)
            del rows
    finally:
        over.set()
        killer.join()
    assert lost > 3


def test_a_process_that_cannot_live_is_a_fault(opened, monkeypatch):
    each = opened(workers=1, ready=1)
    monkeypatch.setattr(module, "_settle", lambda *_: os._exit(3))
    os.kill(each._processes[0].pid, signal.SIGKILL)
    with pytest.raises(NoRoom, match=r"^data\.workers: 21 reading processes ended .*status 3"):
        list(islice(each, 9))


def test_a_machine_without_room_for_a_process_is_told(monkeypatch):
    def full():
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", full)
    with pytest.raises(NoRoom, match=r"^data\.workers: no reading process can be started: Resource temporarily"):
        pool()


def test_a_process_that_hangs_is_ended_and_told(opened, monkeypatch):
    monkeypatch.setattr(module, "_LOOK", 0.05)
    each = opened(Numbers({1: lambda: time.sleep(HANG)}), alive=0.5)
    assert next(each)[1][1][0] == "the process that read it gave no answer for 0.5 s and was ended"


class Odd(UserError):
    """Cannot be made from its message, nor pickled."""

    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


def raises(error):
    def do():
        raise error

    return do


def test_errors_come_when_their_batch_is_due(opened):
    each = opened(Numbers({6: raises(ValueError("odd number"))}))
    assert numbers(next(each)) == [0, 1, 2, 3]
    with pytest.raises(WorkerFault, match=r"(?s)Traceback .*in do.*ValueError: odd number"):
        next(each)
    with pytest.raises(Odd, match=r"^this and that$"):
        next(opened(Numbers({0: raises(Odd("this", "that"))})))


def test_an_error_does_not_wait_for_the_rest_of_its_batch(opened):
    """Where a server is gone, each clip of a batch takes minutes to fail."""
    before = time.monotonic()
    with pytest.raises(Odd):
        next(opened(Numbers({1: raises(Odd("this", "that")), 2: lambda: time.sleep(HANG)})))
    assert time.monotonic() - before < HANG / 10


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


def test_close_ends_processes_that_are_stuck(opened):
    each = opened(Numbers({1: lambda: time.sleep(HANG)}))
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
        os.kill(pid, signal.SIGINT)
        os.kill(pid, signal.SIGTERM)
    assert numbers(list(islice(each, 5))[-1])[0] == 20
    assert pids == [process.pid for process in each._processes]


SCRIPT = """
    import sys, threading, time, torch
    from vatt.data.workers import Plan, Pool

    class Sleeper:
        def read(self, task, rows, lost, begin):
            time.sleep({sleep})

    def work():
        plan = Plan({{"x": ((2,), torch.uint8)}}, 1, 2)
        pools = [Pool(Sleeper(), plan, ready=1, workers=2, alive=1e6) for _ in range(2)]
        print(*(process.pid for pool in pools for process in pool._processes), flush=True)
        {wait}

    {run}
"""


@pytest.mark.slow
@pytest.mark.parametrize("sleep", [0, HANG])
def test_processes_end_with_their_parent_even_if_it_is_killed(sleep):
    script = SCRIPT.format(sleep=sleep, wait="time.sleep(1e6)", run="work()")
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
    script = SCRIPT.format(sleep=HANG if "raise" in end else 0, wait="globals()['kept'] = pools", run=run)
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


class Runtime:
    """Stands in for the CUDA runtime of PyTorch."""

    def __init__(self, code):
        self.code, self.calls = code, []

    def cudaHostRegister(self, address, size, flags):
        self.calls.append(("register", address, size))
        return self.code

    def cudaHostUnregister(self, address):
        self.calls.append(("unregister", address))


def test_memory_is_pinned_until_nobody_holds_it(monkeypatch):
    runtime = Runtime(0)
    monkeypatch.setattr(torch.cuda, "cudart", lambda: runtime)
    slots = Slots(LAYOUT, 2, 3, 10)
    slots.pin()
    (call,) = runtime.calls
    assert call[2] >= 3 * 2 * (1 << 16)
    slots.free.popleft()
    batch = slots.hand_out(0, 2)
    assert call[1] < batch["large"].data_ptr() < call[1] + call[2]
    slots.close()
    assert len(runtime.calls) == 1
    del batch
    assert runtime.calls[1:] == [("unregister", call[1])]


def test_a_forked_process_asks_no_gpu_to_free_anything(monkeypatch):
    runtime = Runtime(0)
    monkeypatch.setattr(torch.cuda, "cudart", lambda: runtime)
    slots = Slots(LAYOUT, 2, 3, 10)
    slots.pin()
    slots.free.popleft()
    batch = slots.hand_out(0, 2)
    slots.close()
    process = os.fork()
    if process == 0:
        del batch
        os._exit(len(runtime.calls))
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 1
    del batch
    assert [call[0] for call in runtime.calls] == ["register", "unregister"]


def test_a_reading_process_collects_nothing_of_the_job(opened):
    """Garbage with tensors of a GPU would be freed in a process that must not use it."""
    assert all(count > 1000 for count in next(opened(Numbers(tell=lambda task: gc.get_freeze_count())))[1])


def test_a_reading_process_writes_to_no_stream_of_a_progress_bar(opened, monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    plain = opened(Numbers(tell=lambda task: sys.stderr is sys.__stderr__ and sys.stdout is sys.__stdout__))
    assert next(plain)[1] == [True] * 4


def test_memory_that_is_mapped_anew_keeps_the_old_map():
    """To unmap it could unmap the new one, where the driver has kept it from forked processes."""
    slots = Slots(LAYOUT, 2, 3, 10)
    old = weakref.ref(slots._map)
    slots.attach()
    gc.collect()
    assert old() is not None
    assert old() is not slots._map


def test_memory_that_cannot_be_pinned_is_told(monkeypatch):
    monkeypatch.setattr(torch.cuda, "cudart", lambda: Runtime(801))
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)

    def reports(*size, device):
        assert device == "cuda"
        raise RuntimeError("CUDA error: operation not supported")  # that of the attempt, which is over

    monkeypatch.setattr(torch, "zeros", reports)
    made = pool()
    made.close()
    assert made.note == "the memory of the loader could not be pinned (CUDA error 801); batches are copied once more"
