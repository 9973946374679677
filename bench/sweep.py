"""Tries launch parameters at the real shapes, and prints the best of each table entry as a line to paste.

A candidate is dropped where it does not compile, asks for too much shared memory, or changes the results by more than
rounding. Those of a backward kernel are timed by the backward pass alone, of a forward kernel by the forward pass.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch

from bench.evaluate import error, named
from bench.measure.timing import DeviceLost, limited, measure, reason, tidy
from bench.problems import Problem, make
from bench.shapes import Shape, shapes
from bench.store import Table
from bench.suite.ops import DROPOUT
from bench.sweep_targets import TARGETS, Target, replaced
from bench.warm import SEED, pool, warm

FIELDS = ("op", "kernel", "case", "dropout", "candidate", "ms", "ms_p20", "ms_p80", "faster", "note")
KEY = ("op", "kernel", "case", "candidate")
COMMITTED = "committed"
SAME = 0.02  # relative distance from the results of the committed parameters: other sums, same numbers
LIMIT = 40.0  # seconds a candidate

Times = dict[int, float]  # milliseconds by index of the candidate; -1 is the committed entry


def chosen_shapes(target: Target, tiny: bool) -> list[Shape]:
    """The shapes of a target that exist."""
    of_op = shapes("tiny" if tiny else "gpu", (target.op,))
    return of_op[:1] if tiny else [shape for shape in of_op if shape.name in target.shapes]


class Sweep:
    """Sweeps into a table; ``workers`` compile ahead, or None."""

    def __init__(self, table: Table, device: torch.device, tiny: bool, workers: ProcessPoolExecutor | None) -> None:
        from vatt.kernels.runtime import device_arch

        self.table, self.device, self.tiny, self.workers = table, device, tiny, workers
        # A CPU has no entries of its own: its tiny run replaces, and restores, those of a GPU.
        self.family = device_arch(device) if device.type == "cuda" else "sm90"

    def run(self, number: int, seconds: float) -> Iterator[str]:
        """Sweeps `TARGETS` [number] for about ``seconds``; yields what is worth printing."""
        target, until = TARGETS[number], time.monotonic() + seconds
        values = target.candidates()
        # In a random order, so that a sweep that runs out of time has seen all corners of the grid.
        random.Random(0).shuffle(values)
        values = values[:1] if self.tiny else values
        try:
            with replaced(target, self.family, values[0]):
                pass
        except (AttributeError, LookupError) as failure:
            yield f"{target.op} {target.kernel}: no entry in triton_launch.py any more ({reason(failure)})"
            return
        times: dict[str, Times] = {}
        of_target = chosen_shapes(target, self.tiny)
        for left, shape in zip(range(len(of_target), 0, -1), of_target, strict=True):
            # The first shape has most to compile; the others find it in the cache, if their sizes divide as its do.
            part = 0.5 if left == len(of_target) > 1 else 1 / left
            share = time.monotonic() + part * (until - time.monotonic())
            times[shape.name] = self._shape(number, shape, values, share)
            tidy(self.device)
        if self.device.type != "cuda":
            yield f"{target.op} {target.kernel}: {len(times)} shape swept; a CPU does not read these tables"
            return
        yield from _summary(target, self.family, values, times)

    def _shape(self, number: int, shape: Shape, values: list[Any], until: float) -> Times:
        target, dropout = TARGETS[number], DROPOUT if shape.has_dropout else 0.0
        about = dict(op=target.op, kernel=target.kernel, case=shape.name, dropout=dropout)
        known: dict[int, str | None] = dict.fromkeys(range(len(values)))
        if self.workers is not None:
            ahead = time.monotonic() + 0.6 * (until - time.monotonic())
            known = warm(self.workers, number, shape, values, self.family, dropout, ahead)
            if not known:  # a worker died, and with it the pool
                self.workers.shutdown(wait=False, cancel_futures=True)
                self.workers = pool()
        try:
            problem = make(shape, self.device, SEED)
            want = _results(problem, target, dropout)
            found: Times = {-1: self._time(problem, target, dropout, {**about, "candidate": COMMITTED}, None)}
        except Exception as failure:
            self.table.add({**about, "candidate": COMMITTED, "note": reason(failure)})
            return {}
        for index, value in enumerate(values):
            row = {**about, "candidate": repr(value)}
            if known_ms := self.table.find(**{name: row[name] for name in KEY}):
                if known_ms["ms"]:
                    found[index] = float(known_ms["ms"])
                continue
            if index not in known or time.monotonic() > until:
                self.table.add({**row, "note": "left out: no time"})
                continue
            if known[index] is not None:
                self.table.add({**row, "note": known[index]})
                continue
            try:
                with limited(LIMIT), replaced(target, self.family, value):
                    far = max(error(x, want[name]) for name, x in _results(problem, target, dropout).items())
                    if not far <= SAME:
                        raise ValueError(f"results differ from those of the committed parameters: {far:.1e}")
                    found[index] = self._time(problem, target, dropout, row, found[-1])
            except DeviceLost:
                raise
            except Exception as failure:
                self.table.add({**row, "note": reason(failure)})
                tidy(self.device)
        return found

    def _time(
        self, problem: Problem, target: Target, dropout: float, row: dict[str, Any], committed: float | None
    ) -> float:
        call = problem.call(target.backend, dropout)
        run: Any = call
        if target.backward:
            outputs, leaves = call(), list(problem.leaves.values())
            grads = problem.gradients(outputs)
            run = lambda: torch.autograd.grad(outputs, leaves, grads, retain_graph=True)  # noqa: E731
        run()
        timing = measure(run, self.device, 0.0 if self.tiny else 0.15)
        ms = timing.median
        faster = None if committed is None else committed / ms
        self.table.add({**row, "ms": ms, "ms_p20": timing.p20, "ms_p80": timing.p80, "faster": faster})
        return ms


def _results(problem: Problem, target: Target, dropout: float) -> dict[str, torch.Tensor]:
    """Outputs and gradients with one seed of dropout."""
    torch.manual_seed(7)
    return named(problem, problem.call(target.backend, dropout), problem.leaves)


def _summary(target: Target, family: str, values: list[Any], times: dict[str, Times]) -> Iterator[str]:
    """The best of each shape, and the entry that is best over all shapes by the mean of the ratios."""
    head = f"{target.op} {target.kernel}"
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
    mean = {
        index: math.prod(found[-1] / found[index] for found in times.values()) ** (1 / len(times)) for index in common
    }
    best = max(mean, key=lambda index: mean[index])
    if mean[best] <= 1:
        yield f"{head}: the committed entry stays, the best other is {mean[best]:.3f}x as fast"
        return
    yield f"{head}: paste  {target.line(family, values[best])}  # {mean[best]:.3f}x as fast as committed"
