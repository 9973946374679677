"""Tries launch parameters at the real shapes, and prints the best of each table entry as a line to paste.

A candidate is dropped where it does not compile, asks for too much shared memory, or changes the results by more than
rounding. Those of a backward kernel are timed by the backward pass alone, of a forward kernel by the forward pass. All
cores compile ahead: each candidate runs once in another process, and Triton's cache on disk keeps what it compiled.
"""

from __future__ import annotations

import importlib
import math
import multiprocessing
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager
from functools import partial
from itertools import product
from typing import Any
from unittest.mock import patch

import torch

from bench.cases import SEARCH_SPACES, cases
from bench.cases.base import ARCH, DROPOUT, Case, Problem, SearchSpace
from bench.checks.correctness import error, named, warm
from bench.measure.timing import DeviceLost, guarded, measure, synchronize, tidy
from vatt.kernels.runtime import device_arch
from vatt.kernels.timing import reason
from vatt.results import Table, text

FIELDS = ("op", "kernel", "case", "dropout", "candidate", "ms", "ms_p20", "ms_p80", "faster", "note")
COMMITTED = "committed"
NO_TIME = "left out: no time"  # tried when a run goes on with --resume
SAME = 0.02  # relative distance from the results of the committed parameters: other sums, same numbers
LIMIT = 40.0  # seconds a candidate
SEED = 3
WORKERS = 10  # each has a CUDA context of its own, and the inputs of a case

Times = dict[int, float]  # milliseconds by index of the candidate; -1 is the committed entry


# The launch tables of kernels/OP/triton_launch.py.


def module(space: SearchSpace) -> Any:
    return importlib.import_module(f"vatt.kernels.{space.op}.triton_launch")


def candidates(space: SearchSpace) -> list[Any]:
    """All values of the grid, as entries of the table."""
    return [point[0] if len(space.grid) == 1 else module(space).LaunchConfig(*point) for point in product(*space.grid)]


def key_on(space: SearchSpace, arch: str) -> Any:
    """The key of the entry on a device of ``arch``."""
    if isinstance(space.key, tuple):
        return tuple(arch if part == ARCH else part for part in space.key)
    return arch if space.key == ARCH else space.key


def replaced(space: SearchSpace, arch: str, value: Any) -> AbstractContextManager[Any]:
    """Inside, the kernels are launched with ``value``.

    Raises:
        AttributeError, LookupError: the table has no such entry any more.
    """
    owner, key = module(space), key_on(space, arch)
    old = getattr(owner, space.table)
    if callable(old):
        return patch.object(owner, space.table, lambda *_, **__: value)
    if not isinstance(value, type(old if key is None else old[key])):
        raise LookupError(f"{space.table}: {key} is no {type(value).__name__}")
    return patch.object(owner, space.table, value if key is None else {**old, key: value})


def line(space: SearchSpace, arch: str, value: Any) -> str:
    """What to paste into the table."""
    if callable(getattr(module(space), space.table)):
        return f"{space.table}() on {arch}: return {value!r}"
    key = key_on(space, arch)
    return f"{space.table} = {value!r}" if key is None else f"{space.table}: {key!r}: {value!r},"


# Compiling ahead.

_problems: dict[Case, Problem] = {}
_lost: list[str] = []  # why this worker's device no longer answers


def pool() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(max(1, min(WORKERS, (os.cpu_count() or 2) - 2)), multiprocessing.get_context("spawn"))


def ahead(
    workers: ProcessPoolExecutor, function: Callable[..., str | None], tasks: Sequence[tuple[Any, ...]], until: float
) -> dict[int, str | None]:
    """Calls ``function`` with each task, in other processes. By the index of those that ended before ``until``: why one
    cannot run, or None. Empty if a worker died."""
    try:
        futures = [workers.submit(function, *task) for task in tasks]
        wait(futures, timeout=max(0.0, until - time.monotonic()))
        # What runs already cannot be stopped; it must not run beside a measurement.
        wait([future for future in futures if not future.cancel()], timeout=60)
        ended = [future.done() and not future.cancelled() for future in futures]
        return {index: futures[index].result() for index, over in enumerate(ended) if over}
    except BrokenProcessPool:
        return {}


def _once(number: int, case: Case, value: Any, arch: str, dropout: float) -> str | None:
    space, device = SEARCH_SPACES[number], torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def run() -> None:
        if case not in _problems:
            _problems.clear()
            _problems[case] = Problem(case, device, SEED)
        with replaced(space, arch, value):
            _call(_problems[case], space, dropout)()
            synchronize(device)

    return attempt(run, device)


def attempt(run: Callable[[], Any], device: torch.device) -> str | None:
    """In a worker: why ``run`` fails, or None. After one that lost the device nothing else is tried."""
    if _lost:
        return f"left out: another candidate broke its process ({_lost[0]})"
    try:
        run()
    except Exception as failure:  # the compiler's or the driver's word is the result
        try:
            tidy(device)
        except DeviceLost:
            _lost.append(reason(failure))
        return reason(failure)
    return None


def compile_once(case: Case, backend: str, dropout: float, device: str) -> str | None:
    """A task of `ahead`."""
    return attempt(lambda: warm(case, backend, dropout, torch.device(device)), torch.device(device))


class Sweep:
    """Sweeps into a table."""

    def __init__(self, table: Table, device: torch.device, tiny: bool) -> None:
        """``tiny``: one candidate at the first case, to exercise the code."""
        self.table, self.device, self.tiny = table, device, tiny
        # A CPU has no entries of its own: its tiny run replaces, and restores, those of a GPU.
        self.arch = device_arch(device) if device.type == "cuda" else "sm90"
        self.workers = pool() if device.type == "cuda" else None  # they compile ahead

    def close(self) -> None:
        if self.workers is not None:
            self.workers.shutdown(wait=False, cancel_futures=True)

    def run(self, op: str, seconds: float) -> Iterator[str]:
        """Sweeps all kernels of an operation for about ``seconds``; yields what is worth printing."""
        numbers = [number for number, space in enumerate(SEARCH_SPACES) if space.op == op]
        for number in numbers[:1] if self.tiny else numbers:
            yield from self._space(number, seconds / len(numbers))

    def _space(self, number: int, seconds: float) -> Iterator[str]:
        space, until = SEARCH_SPACES[number], time.monotonic() + seconds
        head, values = f"{space.op} {space.kernel}", candidates(space)
        # In a random order, so that a sweep that runs out of time has seen all corners of the grid.
        random.Random(0).shuffle(values)
        values = values[:1] if self.tiny else values
        try:
            replaced(space, self.arch, values[0])
        except (AttributeError, LookupError) as failure:
            yield f"{head}: no entry in triton_launch.py any more ({reason(failure)})"
            return
        of_op = cases("tiny" if self.tiny else "gpu", (space.op,))
        found = of_op[:1] if self.tiny else [case for case in of_op if case.name in space.cases]
        times: dict[str, Times] = {}
        for left, case in zip(range(len(found), 0, -1), found, strict=True):
            # The first case has most to compile; the others find it in the cache, if their sizes divide as its do.
            part = 0.5 if left == len(found) > 1 else 1 / left
            times[case.name] = self._case(number, case, values, time.monotonic() + part * (until - time.monotonic()))
            tidy(self.device)
        if self.device.type != "cuda":
            yield f"{head}: {len(times)} case swept; a CPU does not read these tables"
            return
        yield from _summary(space, self.arch, values, times)

    def _case(self, number: int, case: Case, values: list[Any], until: float) -> Times:
        space, dropout = SEARCH_SPACES[number], DROPOUT if case.has_dropout else 0.0
        about = dict(op=space.op, kernel=space.kernel, case=case.name, dropout=dropout)
        faults: dict[int, str | None] = dict.fromkeys(range(len(values)))
        if self.workers is not None:
            tasks = [(number, case, value, self.arch, dropout) for value in values]
            faults = ahead(self.workers, _once, tasks, time.monotonic() + 0.6 * (until - time.monotonic()))
            if not faults:  # a worker died, and with it the pool
                self.close()
                self.workers = pool()
        found: Times = {}
        committed = {**about, "candidate": COMMITTED}
        with guarded(LIMIT, self.device, partial(self._skip, committed)):
            problem = Problem(case, self.device, SEED)
            want = _results(problem, space, dropout)
            found[-1] = self._time(problem, space, dropout, committed, None)
        if not found:
            return found
        before = [row for row in self.table.rows if row["note"] != NO_TIME]
        for index, value in enumerate(values):
            row = {**about, "candidate": repr(value)}
            texts = {name: text(cell) for name, cell in row.items()}
            if old := next((old for old in before if texts.items() <= old.items()), None):
                found |= {index: float(old["ms"])} if old["ms"] else {}
            elif index not in faults or time.monotonic() > until:
                self._skip(row, NO_TIME)
            elif fault := faults[index]:
                self._skip(row, fault)
            else:
                with guarded(LIMIT, self.device, partial(self._skip, row)), replaced(space, self.arch, value):
                    far = max(error(x, want[name]) for name, x in _results(problem, space, dropout).items())
                    if not far <= SAME:
                        raise ValueError(f"results differ from those of the committed parameters: {far:.1e}")
                    found[index] = self._time(problem, space, dropout, row, found[-1])
        return found

    def _skip(self, row: dict[str, Any], why: str | Exception) -> None:
        self.table.add({**row, "note": why if isinstance(why, str) else reason(why)})

    def _time(
        self, problem: Problem, space: SearchSpace, dropout: float, row: dict[str, Any], committed: float | None
    ) -> float:
        call = _call(problem, space, dropout)
        call()
        timing = measure(call, self.device, 0.0 if self.tiny else 0.15)
        faster = None if committed is None else committed / timing.median
        self.table.add(row | dict(ms=timing.median, ms_p20=timing.p20, ms_p80=timing.p80, faster=faster))
        return timing.median


def _call(problem: Problem, space: SearchSpace, dropout: float) -> Callable[[], Any]:
    """What is timed: the forward pass, or of a backward kernel the backward pass alone."""
    call = problem.call(space.backend, dropout)
    if not space.backward:
        return call
    outputs, leaves = call(), list(problem.leaves.values())
    grads = problem.gradients(outputs)
    return lambda: torch.autograd.grad(outputs, leaves, grads, retain_graph=True)


def _results(problem: Problem, space: SearchSpace, dropout: float) -> dict[str, torch.Tensor]:
    """Outputs and gradients with one seed of dropout."""
    torch.manual_seed(7)
    return named(problem, problem.call(space.backend, dropout), problem.leaves)


def _summary(space: SearchSpace, arch: str, values: list[Any], times: dict[str, Times]) -> Iterator[str]:
    """The best of each case, and the entry that is best over all cases by the mean of the ratios."""
    head = f"{space.op} {space.kernel}"
    for case, found in times.items():
        if len(found) < 2:
            yield f"{head} {case}: nothing measured beside the committed entry"
            continue
        best = min(found, key=lambda index: found[index])
        name = COMMITTED if best < 0 else repr(values[best])
        yield f"{head} {case}: {name} {found[best]:.4g} ms, committed {found[-1]:.4g} ms, of {len(found) - 1} tried"
    common = set.intersection(*(set(found) for found in times.values())) - {-1} if times else set()
    if not common:
        return
    power = 1 / len(times)
    mean = {index: math.prod(found[-1] / found[index] for found in times.values()) ** power for index in common}
    best = max(mean, key=lambda index: mean[index])
    if mean[best] <= 1:
        yield f"{head}: the committed entry stays, the best other is {mean[best]:.3f}x as fast"
        return
    yield f"{head}: paste  {line(space, arch, values[best])}  # {mean[best]:.3f}x as fast as committed"
