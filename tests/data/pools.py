"""Pools of reading processes for tests: what they read, and whether processes are gone."""

from __future__ import annotations

import os
import time
from pathlib import Path

import torch

from tests.limits import HANG
from vatt.data.batches import Plan
from vatt.data.workers import Pool

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
