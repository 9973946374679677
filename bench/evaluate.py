"""Outputs and gradients of a problem by name, and how far two such sets lie apart."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from bench.problems import Bound, Leaves, Problem


def evaluate(problem: Problem, backend: str, dtype: torch.dtype, dropout: float = 0.0) -> Leaves:
    """All outputs, and the gradient of each leaf ("grad NAME"), computed by ``backend`` on leaves of ``dtype``.

    The plain backend of a problem in parts runs slice by slice; its gradients are summed in float32 or wider and then
    rounded, as one call would.
    """
    leaves = problem.copy(dtype)
    torch.manual_seed(7)  # of dropout
    if backend == "torch" and problem.parts > 1:
        return _in_parts(problem, leaves, dtype)
    return named(problem, problem.bind(leaves, backend, dropout), leaves)


def named(problem: Problem, call: Bound, leaves: Leaves) -> Leaves:
    """Runs ``call`` and its backward pass."""
    outputs = call()
    grads = torch.autograd.grad(outputs, list(leaves.values()), problem.gradients(outputs))
    found = {name: out.detach() for name, out in zip(problem.outputs, outputs, strict=True)}
    return found | {f"grad {name}": grad for name, grad in zip(leaves, grads, strict=True)}


def _in_parts(problem: Problem, leaves: Leaves, dtype: torch.dtype) -> Leaves:
    wide = torch.promote_types(dtype, torch.float32)
    sums = {name: torch.zeros_like(leaf, dtype=wide) for name, leaf in leaves.items()}
    items = next(iter(leaves.values())).shape[0]
    (grad,) = problem.gradients((next(iter(leaves.values())).new_empty(items),))
    step, outs = -(-items // problem.parts), []
    for first in range(0, items, step):
        part = slice(first, min(first + step, items))
        (out,) = problem.bind(leaves, "torch", 0.0, part)()
        for name, value in zip(leaves, torch.autograd.grad(out, list(leaves.values()), grad[part]), strict=True):
            sums[name] += value
        outs.append(out.detach())
    found = {problem.outputs[0]: torch.cat(outs)}
    return found | {f"grad {name}": value.to(dtype) for name, value in sums.items()}


def error(out: Tensor, want: Tensor) -> float:
    """||out - want|| / ||want||, in float64 (a float32 sum over 10^8 numbers would add an error of its own)."""
    difference, size = 0.0, 0.0
    for a, b in zip(out.flatten().split(1 << 26), want.flatten().split(1 << 26), strict=True):
        difference += float((a.double() - b.double()).square().sum())
        size += float(b.double().square().sum())
    return (difference / max(size, 1e-300)) ** 0.5


@contextmanager
def poisoned() -> Iterator[None]:
    """Inside, new memory is filled with NaN, so that what a kernel does not write shows."""
    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn_only)
        torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]


def worst(errors: list[float]) -> float | None:
    """The largest error, None if there is none.

    Raises:
        ArithmeticError: one is not finite: a provider with such an output has no times worth a row.
    """
    if not all(math.isfinite(value) for value in errors):
        raise ArithmeticError("an output holds values that are not finite")
    return max(errors, default=None)
