"""Batches from reading processes to the device: what arrives is what was written, while their memory is used again and
after a process was replaced. Where there is a GPU it is one: pinned memory, and copies that lag behind the host."""

from __future__ import annotations

import os
import signal
from itertools import islice

import torch

from tests.limits import HANG
from train.core.transfer import Uploader
from vatt.data.batches import Plan
from vatt.data.workers import Pool

DEVICE = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
LAYOUT = {"x": ((1 << 19,), torch.int32), "y": ((), torch.int64)}
TASKS, STEPS = 4, 24
SLEEP = 20_000_000  # cycles of a GPU, some 10 ms: longer than a batch takes to be read and copied


class Numbers:
    def read(self, task, rows, lost, begin):
        begin(0)
        for x in rows.values():
            x.fill_(task)


def test_what_arrives_is_what_was_written():
    torch.zeros(1, device=DEVICE)  # as a model is there before its batches
    pool = Pool(Numbers(), Plan(LAYOUT, 1, TASKS), ready=3, workers=2, alive=HANG)
    upload, found, before = Uploader(DEVICE), [], []
    try:
        assert pool.note == ""
        for step, (rows, _) in enumerate(islice(pool, STEPS)):
            if step == 0 and DEVICE.type == "cuda":
                assert rows["x"].is_pinned()
            if step == STEPS // 3:
                os.kill(pool._processes[0].pid, signal.SIGKILL)  # the next one is forked when the memory is pinned
            if upload._stream is not None:
                with torch.cuda.stream(upload._stream):
                    torch.cuda._sleep(SLEEP)
            sent = upload(rows)
            del rows
            before.append(sent)  # looked at when the processes have had time to write over it; nobody waits for numbers
            found += [(x["x"].amin(1), x["x"].amax(1), x["y"]) for x in before[:-1]]
            del before[:-1], sent
            upload.let_go()
        found += [(x["x"].amin(1), x["x"].amax(1), x["y"]) for x in before]
        before.clear()
    finally:
        pool.close()
    for step, numbers in enumerate(found):
        assert [x.tolist() for x in numbers] == [list(range(step * TASKS, (step + 1) * TASKS))] * 3
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    upload.let_go()
    assert pool._slots.held == 0
    assert pool._slots._pinned is None  # given back with the last batch
