"""What is measured by name: operations, as subjects of a session, and the steps of `bench.steps`."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.cases import OPS, cases
from bench.cases.base import AUTO, OURS, TORCH, Case, Leaves, Problem
from bench.checks.correctness import WIDER, evaluate, largest_error, rates
from bench.measure.session import BOTH, FORWARD, Prepared, Subject
from bench.measure.timing import reason, synchronize
from bench.steps import step_subjects


class Operation(Subject):
    """A case at one dropout rate: each backend of ours, eager and compiled PyTorch, and the packages that are
    installed. Its inputs are made when they are first needed."""

    def __init__(self, case: Case, dropout: float, device: torch.device, kernels: bool) -> None:
        """``kernels``: measure our Triton kernels (on a GPU) or what "auto" takes instead (on a CPU)."""
        self.case, self.dropout, self.device, self.dtype = case, dropout, device, case.dtype
        self.about = dict(suite="ops", op=case.op, case=case.name, shape=case.words, dtype=case.label, dropout=dropout)
        self.select = f"--case {shlex.quote(self.name)}"
        self.ours = OURS if kernels else AUTO
        self.rank = (case.priority - 1) * 2 + (dropout == 0 and case.has_dropout)
        self._makers = case.providers(kernels, device.type == "cuda")
        self.heavy = frozenset(name for name, baseline in self._makers.items() if baseline.heavy)
        # Of a tiny case the code is exercised once; a compilation takes a second.
        self.providers = tuple(name for name in self._makers if not (case.tiny and self.rank and name in self.heavy))
        self._problem: Problem | None = None
        self._want: Leaves | None = None

    @property
    def problem(self) -> Problem:
        if self._problem is None:
            self._problem = Problem(self.case, self.device)
        return self._problem

    def prepare(self, provider: str) -> Prepared:
        problem, baseline = self.problem, self._makers[provider]
        problem.notes.clear()
        want = self._reference(problem)
        began = time.perf_counter()
        call, leaves = baseline.make(problem, self.dropout)
        outputs = call()
        grads = problem.gradients(outputs)
        error = largest_error(self.case, outputs, want) if want and baseline.same else None
        del outputs
        wanted = list(leaves.values())
        calls = {FORWARD: call, BOTH: lambda: torch.autograd.grad(call(), wanted, grads)}
        calls[BOTH]()
        synchronize(self.device)
        first = time.perf_counter() - began
        costs = {mode: self.case.cost(mode == BOTH, self.dropout, provider) for mode in calls}
        return Prepared(calls, costs, lambda: problem.refresh(leaves), first, error, notes=list(problem.notes))

    def _reference(self, problem: Problem) -> Leaves | None:
        """Outputs of the plain backend, one type wider. With dropout each backend draws another mask: None."""
        if self.dropout > 0:
            return None
        # The inputs change while they are measured: made anew, they are those of the reference.
        fresh = Problem(self.case, self.device)
        with torch.no_grad():
            for name, leaf in problem.leaves.items():
                leaf.copy_(fresh.leaves[name])
            if isinstance(x := fresh.fixed.get("x"), Tensor):
                problem.fixed["x"].copy_(x)
        if self._want is None:
            self._want = {}
            try:
                found = evaluate(fresh, TORCH, WIDER[self.dtype])
                self._want = {name: found[name] for name in self.case.outputs}
            except torch.OutOfMemoryError as failure:
                problem.notes.append(f"no reference, so no error: {reason(failure)}")
        return self._want

    def release(self) -> None:
        self._problem = self._want = None
        torch._dynamo.reset()


def operations(size: str, ops: Sequence[str], device: torch.device, kernels: bool) -> list[Operation]:
    """The most important first: cases with a target as training runs them, then without dropout, then the others."""
    found = [Operation(case, rate, device, kernels) for case in cases(size, ops) for rate in rates(case)]
    return sorted(found, key=lambda subject: subject.rank)


@dataclass(frozen=True)
class Request:
    """``size``: of `bench.cases.SIZES`; ``only``: "ops" or "steps", None for both; ``steps``: presets and clips of a
    batch, None for those of the size."""

    size: str
    ops: Sequence[str] = OPS
    only: str | None = None
    steps: Sequence[Sequence] | None = None  # type: ignore[type-arg]

    def subjects(self, device: torch.device, kernels: bool | None = None) -> list[Subject]:
        """All that is requested, the most important first. ``kernels``: as of `Operation`; by default on a GPU."""
        kernels = device.type == "cuda" if kernels is None else kernels
        found: list[Subject] = []
        if self.only in (None, "ops"):
            found += operations(self.size, self.ops, device, kernels)
        if self.only in (None, "steps"):
            steps = None if self.steps is None else [(str(model), int(batch)) for model, batch in self.steps]
            found += step_subjects(self.size, device, kernels, steps)
        return found
