"""Errors of this project's kernels at the real shapes, next to those of plain PyTorch in the same type.

The reference is the plain backend on the same rounded inputs, one type wider: float32 for bfloat16, float64 for
float32. A tensor passes if its error is at most twice that of the plain backend in the same type (and a little: the
plain one may round where it happens not to matter), if it holds no NaN although all new memory was filled with it, and
if a second run gives the same bits. With dropout the backends draw different masks, so only the last two are asked.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from bench.evaluate import error, evaluate, poisoned
from bench.measure.timing import limited, peak_mib, reason, tidy
from bench.problems import Leaves, Problem, make
from bench.shapes import Shape

FIELDS = (
    *("op", "case", "dtype", "dropout", "backend", "tensor", "error", "eager_error", "bound", "nans", "same_bits"),
    *("passed", "peak_mib", "note"),
)
KEY = ("op", "case", "dropout")
WIDER = {torch.bfloat16: torch.float32, torch.float16: torch.float32, torch.float32: torch.float64}
SLACK = {torch.bfloat16: 1e-3, torch.float16: 1e-4, torch.float32: 1e-6}
LIMIT = 120.0  # seconds a backend
DROPOUT = 0.1

Row = dict[str, Any]


def cases(shape: Shape) -> list[float]:
    """The dropout rates at which a shape is checked."""
    return [0.0, DROPOUT] if shape.has_dropout else [0.0]


def check(shape: Shape, dropout: float, device: torch.device, backends: Sequence[str] | None = None) -> Iterator[Row]:
    """One row for each tensor of each backend (by default those with kernels of ours); a backend that fails gives one
    row with the reason."""
    problem, about = None, dict(op=shape.op, case=shape.name, dtype=str(shape.dtype)[6:], dropout=dropout)
    want: Leaves = {}
    eager: dict[str, float] = {}
    try:
        with limited(LIMIT):
            problem = make(shape, device)
            if dropout == 0:
                want = evaluate(problem, "torch", WIDER[shape.dtype])
                eager = {k: error(v, want[k]) for k, v in evaluate(problem, "torch", shape.dtype).items()}
    except Exception as failure:
        yield {**about, "backend": "torch", "passed": False, "note": reason(failure)}
        problem = None
    for backend in (backends or shape.backends) if problem else ():
        try:
            with limited(LIMIT):
                rows = list(_rows(problem, backend, dropout, want, eager))
        except Exception as failure:  # whatever a compiler or a driver raises is this row's result
            rows = [{"passed": False, "note": reason(failure)}]
        yield from ({**about, "backend": backend, **row} for row in rows)
        tidy(device)
    del problem, want
    tidy(device)


def _rows(problem: Any, backend: str, dropout: float, want: Leaves, eager: dict[str, float]) -> Iterator[Row]:
    kind = problem.shape.dtype
    with poisoned():
        first = evaluate(problem, backend, kind, dropout)
    peak = peak_mib(lambda: evaluate(problem, backend, kind, dropout), problem.device)
    second = evaluate(problem, backend, kind, dropout)
    if all(torch.equal(value, second[name]) for name, value in first.items()):
        third = first
    else:  # PyTorch's own operations may take other ways while memory is filled: compare two plain runs
        third = evaluate(problem, backend, kind, dropout)
    for name, value in first.items():
        row: Row = dict(tensor=name, peak_mib=peak, nans=int(value.isnan().sum()))
        row["same_bits"] = torch.equal(second[name], third[name])
        row["passed"] = row["same_bits"] and not row["nans"]
        if want:
            found, bound = error(value, want[name]), 2 * eager[name] + SLACK[kind]
            row |= dict(error=found, eager_error=eager[name], bound=bound)
            row["passed"] = row["passed"] and math.isfinite(found) and found <= bound
        yield row


def line(row: Row) -> str:
    """A row as one short line of text."""
    head = f"{'ok  ' if row['passed'] else 'FAIL'} {row['op']} {row['case']} p={row['dropout']} {row['backend']}"
    if row.get("note"):
        return f"{head}: {row['note']}"
    errors = f"error {row['error']:.2e} (eager {row['eager_error']:.2e})" if row.get("error") is not None else ""
    return f"{head} {row['tensor']}: {errors} nans {row['nans']} same bits {row['same_bits']}"


__all__ = ["FIELDS", "KEY", "Problem", "Row", "cases", "check", "line"]
