"""The operations as subjects: each backend of ours, eager and compiled PyTorch, and the packages that are installed."""

from __future__ import annotations

import shlex
import time

import torch

from bench import evaluate, peers
from bench.correctness import WIDER
from bench.costs import cost_of
from bench.measure.timing import reason
from bench.problems import Leaves, Problem, make
from bench.rivals.ops import op_rivals, rival_error, rival_names
from bench.shapes import Shape, shapes, words
from bench.suite.prepared import BOTH, FORWARD, Prepared, Subject

DROPOUT = 0.1  # of the official configurations


class OpSubject(Subject):
    """One operation at one shape and dropout rate. Its inputs are made when they are first needed."""

    def __init__(self, shape: Shape, dropout: float, device: torch.device, kernels: bool) -> None:
        """``kernels``: measure our Triton kernels (on a GPU) or what "auto" takes instead (on a CPU)."""
        self.shape, self.dropout, self.device, self.dtype = shape, dropout, device, shape.dtype
        self.about = dict(suite="ops", op=shape.op, case=shape.name, shape=words(shape))
        self.about |= dict(dtype=str(shape.dtype).removeprefix("torch."), dropout=dropout)
        self.select = f"--case {shlex.quote(self.name)}"
        self.ours = peers.OURS if kernels else peers.AUTO
        own = tuple(peers.providers(shape, kernels))
        self.heavy = frozenset(name for name in own if peers.is_compiled(name))
        light = [name for name in own if name not in self.heavy]
        self.providers = (*light, *rival_names(shape, device), *(name for name in own if name in self.heavy))
        self._kernels = kernels
        self.rank = (shape.priority - 1) * 2 + (dropout == 0 and shape.has_dropout)
        self._problem: Problem | None = None
        self._want: Leaves | None = None

    @property
    def problem(self) -> Problem:
        if self._problem is None:
            self._problem = make(self.shape, self.device)
        return self._problem

    def prepare(self, provider: str) -> Prepared:
        problem, found = self.problem, peers.providers(self.shape, self._kernels)
        make_call = found[provider] if provider in found else op_rivals(problem)[provider]
        problem.notes.clear()
        want = self._reference(problem)
        began = time.perf_counter()
        call, leaves = make_call(problem, self.dropout)
        outputs = call()
        grads = problem.gradients(outputs)
        error = self._error(provider, outputs, want) if want else None
        del outputs
        wanted = list(leaves.values())
        calls = {FORWARD: call, BOTH: lambda: torch.autograd.grad(call(), wanted, grads)}
        calls[BOTH]()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        first = time.perf_counter() - began
        costs = {mode: cost_of(provider, self.shape, mode == BOTH, self.dropout) for mode in calls}
        refresh = lambda: problem.refresh(leaves)  # noqa: E731
        return Prepared(calls, costs, refresh, first, error, notes=list(problem.notes))

    def _reference(self, problem: Problem) -> Leaves | None:
        """Outputs of the plain backend, one type wider. With dropout each backend draws another mask: None."""
        if self.dropout > 0:
            return None
        # The inputs change while they are measured: made anew, they are those of the reference.
        fresh = make(self.shape, self.device)
        with torch.no_grad():
            for name, leaf in problem.leaves.items():
                leaf.copy_(fresh.leaves[name])
            if "x" in fresh.fixed:
                problem.fixed["x"].copy_(fresh.fixed["x"])
        if self._want is None:
            self._want = {}
            try:
                found = evaluate.evaluate(fresh, "torch", WIDER[self.shape.dtype])
                self._want = {name: found[name] for name in problem.outputs}
            except torch.OutOfMemoryError as failure:
                problem.notes.append(f"no reference, so no error: {reason(failure)}")
        return self._want

    def _error(self, provider: str, outputs: tuple[torch.Tensor, ...], want: Leaves) -> float | None:
        if provider in rival_names(self.shape, self.device):
            return rival_error(self.shape.op, provider, outputs, want)
        return _error(outputs, want)

    def release(self) -> None:
        self._problem = self._want = None
        torch._dynamo.reset()


def _error(outputs: tuple[torch.Tensor, ...], want: Leaves) -> float | None:
    """The largest of the outputs; None if they are not of the same shape, as of another loss."""
    errors = []
    for out, expected in zip(outputs, want.values(), strict=False):
        if out.numel() != expected.numel():
            return None
        errors.append(evaluate.error(out.detach().reshape(expected.shape), expected))
    return evaluate.worst(errors)


def op_subjects(size: str, ops: tuple[str, ...], device: torch.device, kernels: bool) -> list[Subject]:
    """The most important first: shapes with a target as training runs them, then without dropout, then the others."""
    rates = ((shape, p) for shape in shapes(size, ops) for p in ((DROPOUT, 0.0) if shape.has_dropout else (0.0,)))
    found = [OpSubject(shape, dropout, device, kernels) for shape, dropout in rates]
    for subject in found if size == "tiny" else ():
        if subject.rank > 0:  # the code is exercised once; a compilation takes a second
            subject.providers = tuple(name for name in subject.providers if name not in subject.heavy)
    return sorted(found, key=lambda subject: subject.rank)
