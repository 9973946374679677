"""Errors of this project's kernels at the real shapes, next to those of plain PyTorch in the same type.

The rule is that of `vatt.kernels.selection.checking`, which a run asks at small shapes: the reference is the plain
backend one type wider, on the same rounded inputs and with the same seed of dropout. Besides, a tensor may hold no NaN
although all new memory was filled with it, and a second run must give the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from bench.cases.base import DROPOUT, TORCH, Call, Case, Leaves, Problem
from bench.cases.nce import Nce
from bench.measure.timing import synchronize, tidy
from vatt.analysis.peak_memory import peak_mib
from vatt.kernels.dropout import draw_seed
from vatt.kernels.selection.checking import SLACK, WIDER, error
from vatt.kernels.timing import limited, reason

FIELDS = (
    *("op", "case", "dtype", "dropout", "backend", "tensor", "error", "eager_error", "bound", "nans", "same_bits"),
    *("passed", "peak_mib", "note"),
)
LIMIT = 120.0  # seconds a backend

Row = dict[str, Any]


def evaluate(problem: Problem, backend: str, dtype: torch.dtype, dropout: float = 0.0) -> Leaves:
    """All outputs, and the gradient of each leaf ("grad NAME"), computed by ``backend`` on leaves of ``dtype``.

    The plain backend of a case in parts runs slice by slice; its gradients are summed in float32 or wider and then
    rounded, as one call would.
    """
    leaves = problem.copy(dtype)
    torch.manual_seed(7)
    options = {"seed": draw_seed(problem.device)} if dropout > 0 else {}
    if backend == TORCH and isinstance(problem.case, Nce):
        return _in_slices(problem, problem.case, leaves, dtype)
    return named(problem, problem.call(backend, dropout, leaves, **options), leaves)


def named(problem: Problem, call: Call, leaves: Leaves) -> Leaves:
    """Runs ``call`` and its backward pass."""
    outputs = call()
    grads = torch.autograd.grad(outputs, list(leaves.values()), problem.gradients(outputs)) if leaves else ()
    names = problem.case.outputs if len(outputs) == len(problem.case.outputs) else ("total",)  # the sum of a pair
    found = {name: out.detach() for name, out in zip(names, outputs, strict=True)}
    return found | {f"grad {name}": grad for name, grad in zip(leaves, grads, strict=True)}


def _in_slices(problem: Problem, case: Nce, leaves: Leaves, dtype: torch.dtype) -> Leaves:
    sum_dtype = torch.promote_types(dtype, torch.float32)
    sums = {name: torch.zeros_like(leaf, dtype=sum_dtype) for name, leaf in leaves.items()}
    (grad,) = problem.gradients((next(iter(leaves.values())).new_empty(case.videos),))
    outs = []
    for items in case.slices:
        (out,) = problem.call(TORCH, 0.0, leaves, items=items)()
        for name, value in zip(leaves, torch.autograd.grad(out, list(leaves.values()), grad[items]), strict=True):
            sums[name] += value
        outs.append(out.detach())
    return {"loss": torch.cat(outs)} | {f"grad {name}": value.to(dtype) for name, value in sums.items()}


def largest_error(case: Case, outputs: tuple[Tensor, ...], want: Leaves) -> float:
    """The largest `error` of a provider's outputs; ``want``: those of the plain backend.

    Raises:
        ArithmeticError: one is not finite: a provider with such an output has no times worth a row.
    """
    expected = case.expected(outputs, want)
    errors = [error(out.detach(), value) for out, value in zip(outputs, expected, strict=True)]
    if not all(math.isfinite(value) for value in errors):
        raise ArithmeticError("an output holds values that are not finite")
    return max(errors)


@contextmanager
def poisoned() -> Iterator[None]:
    """Inside, new memory is filled with NaN, so that what a kernel does not write shows: PyTorch does so where it is to
    be deterministic (`torch.utils.deterministic.fill_uninitialized_memory` is on by itself)."""
    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn_only)


def rates(case: Case) -> tuple[float, ...]:
    """The dropout rates at which a case is checked and measured; that of training first."""
    return (DROPOUT, 0.0) if case.has_dropout else (0.0,)


def check(case: Case, dropout: float, device: torch.device, backends: Sequence[str] | None = None) -> Iterator[Row]:
    """One row for each tensor of each backend (by default those with kernels of ours); a backend that fails gives one
    row with the reason."""
    about = dict(op=case.op, case=case.name, dtype=case.label, dropout=dropout)
    try:
        with limited(LIMIT):
            problem, want, eager = _reference(case, device, dropout)
    except Exception as failure:
        yield {**about, "backend": TORCH, "passed": False, "note": reason(failure)}
        return
    for backend in case.backends if backends is None else backends:
        try:
            with limited(LIMIT):
                rows = list(_rows(problem, backend, dropout, want, eager))
        except Exception as failure:  # whatever a compiler or a driver raises is this row's result
            rows = [{"passed": False, "note": reason(failure)}]
        yield from ({**about, "backend": backend, **row} for row in rows)
        tidy(device)  # after the rows: a run that goes on without the device does not come here again


def _reference(case: Case, device: torch.device, dropout: float) -> tuple[Problem, Leaves, dict[str, float]]:
    """The problem, what is right, and the errors of plain PyTorch; of half of the batch or less where the dropout mask
    of the plain backend, eight bytes a weight, has no room."""
    try:
        problem = Problem(case, device)
        want = evaluate(problem, TORCH, WIDER[case.dtype], dropout)
        return problem, want, {k: error(v, want[k]) for k, v in evaluate(problem, TORCH, case.dtype, dropout).items()}
    except torch.OutOfMemoryError:
        if dropout == 0 or getattr(case, "batch", 1) < 2:
            raise
    tidy(device)
    return _reference(replace(case, batch=case.batch // 2), device, dropout)  # type: ignore[call-arg, attr-defined]


def warm(case: Case, backend: str, dropout: float, device: torch.device) -> None:
    """Runs a backend once, both passes: its kernels are compiled, and Triton's cache on disk keeps them."""
    evaluate(Problem(case, device), backend, case.dtype, dropout)
    synchronize(device)


def _rows(problem: Problem, backend: str, dropout: float, want: Leaves, eager: dict[str, float]) -> Iterator[Row]:
    kind = problem.case.dtype
    exactness = getattr(problem.case, "products", None) or kind
    with poisoned():
        first = evaluate(problem, backend, kind, dropout)
    cuda = problem.device.type == "cuda"
    peak = peak_mib(lambda: evaluate(problem, backend, kind, dropout), problem.device) if cuda else None
    second = evaluate(problem, backend, kind, dropout)
    if all(torch.equal(value, second[name]) for name, value in first.items()):
        third = first
    else:  # PyTorch's own operations may take other ways while memory is filled: compare two plain runs
        third = evaluate(problem, backend, kind, dropout)
    for name, value in first.items():
        row: Row = dict(tensor=name, peak_mib=peak, nans=int(value.isnan().sum()))
        row["same_bits"] = torch.equal(second[name], third[name])
        row["passed"] = row["same_bits"] and not row["nans"]
        slack = SLACK[exactness if value.is_floating_point() else value.dtype]
        found, bound = error(value, want[name]), 2 * eager[name] + slack
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
