"""Reading processes: whatever becomes of them, batches come in order and whole."""

from __future__ import annotations

import contextlib
import errno
import faulthandler
import gc
import io
import os
import random
import re
import signal
import sys
import threading
import time
from itertools import islice

import pytest

from tests.data.pools import LAYOUT, Numbers, numbers, pool
from tests.limits import HANG
from vatt.data import workers as module
from vatt.data.batches import Plan, WorkerFault, read_here
from vatt.data.slots import NoRoom
from vatt.errors import UserError


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


def test_a_reading_process_collects_nothing_of_the_job(opened):
    """Garbage with tensors of a GPU would be freed in a process that must not use it."""
    assert all(count > 1000 for count in next(opened(Numbers(tell=lambda task: gc.get_freeze_count())))[1])


def test_a_reading_process_writes_to_no_stream_of_a_progress_bar(opened, monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    plain = opened(Numbers(tell=lambda task: sys.stderr is sys.__stderr__ and sys.stdout is sys.__stdout__))
    assert next(plain)[1] == [True] * 4
