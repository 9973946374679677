"""Compiles the candidates of a sweep on all cores: each runs once in another process, and Triton's cache on disk keeps
what it compiled, so that the process that measures need not wait."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures import TimeoutError as FutureTimeout
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import torch

from bench.measure.timing import DeviceLost, reason, tidy
from bench.problems import Problem, make
from bench.shapes import Shape
from bench.sweep_targets import TARGETS, replaced

WORKERS = 10  # each has a CUDA context of its own, and the inputs of a shape
SEED = 3

_problems: dict[Shape, Problem] = {}
_lost: list[str] = []  # why this worker's device no longer answers


def pool() -> ProcessPoolExecutor:
    workers = max(1, min(WORKERS, (os.cpu_count() or 2) - 2))
    return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"))


def warm(
    workers: ProcessPoolExecutor,
    number: int,
    shape: Shape,
    values: Sequence[Any],
    family: str,
    dropout: float,
    until: float,
) -> dict[int, str | None]:
    """Runs the candidates of target ``number`` at a shape once. By the index of those that ended before ``until``
    (`time.monotonic`): why one cannot run, or None. Empty if a worker died."""
    found: dict[int, str | None] = {}
    try:
        tasks: list[Future[str | None]] = [
            workers.submit(_once, number, shape, value, family, dropout) for value in values
        ]
        for index, task in enumerate(tasks):
            try:
                found[index] = task.result(timeout=max(0.0, until - time.monotonic()))
            except FutureTimeout:
                break
        # What runs already cannot be stopped; it must not run beside a measurement.
        wait([task for task in tasks if not task.cancel()], timeout=60)
        found |= {index: task.result() for index, task in enumerate(tasks) if task.done() and not task.cancelled()}
    except BrokenProcessPool:
        return {}
    return found


def _once(number: int, shape: Shape, value: Any, family: str, dropout: float) -> str | None:
    if _lost:
        return f"left out: another candidate broke its process ({_lost[0]})"
    target, device = TARGETS[number], torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if shape not in _problems:
        _problems.clear()
        _problems[shape] = make(shape, device, SEED)
    problem = _problems[shape]
    try:
        with replaced(target, family, value):
            outputs = problem.call(target.backend, dropout)()
            if target.backward:
                torch.autograd.grad(outputs, list(problem.leaves.values()), problem.gradients(outputs))
            if device.type == "cuda":
                torch.cuda.synchronize()
    except Exception as failure:  # the compiler's or the driver's word is the result
        try:
            tidy(device)
        except DeviceLost:
            _lost.append(reason(failure))
        return reason(failure)
    return None
