"""What is measured by name, as subjects of a session: operations, and whole training steps (ours with each kernel
backend, and complete models that others would write)."""

from __future__ import annotations

import shlex
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bench.baselines.models import missing, models
from bench.baselines.official import LIMIT, OFFICIAL, Official
from bench.cases import OPS, cases
from bench.cases.base import AUTO, OURS, TORCH, Case, Cost, Leaves, Problem
from bench.checks.correctness import WIDER, evaluate, largest_error, rates
from bench.jobs.case import columns_of, config_of, random_batch
from bench.jobs.options import DROPS
from bench.measure.session import BOTH, FORWARD, MODES, STEP, Prepared, Subject
from bench.measure.timing import synchronize
from vatt.analysis.flops import train_flops_per_sample
from vatt.kernels.timing import reason
from vatt.models.transformer import Encoder
from vatt.objectives.pretraining import Pretraining
from vatt.precision import type_of

# Preset and clips of a batch. The first GPU sizes are those of 64 clips a GPU, 32 GPUs: the paper's batch of 2048.
STEPS: dict[str, tuple[tuple[str, int], ...]] = {
    "tiny": (("vatt-tiny", 2),),
    "cpu": (("vatt-tiny", 8), ("vatt-ma-tiny", 8)),
    "gpu": (("vatt-base", 64), ("vatt-medium", 32), ("vatt-ma-medium", 32), ("vatt-large", 16)),
}
_COMPILED = "ours torch.compile"


class Operation(Subject):
    """A case at one dropout rate: each backend of ours, eager and compiled PyTorch, and the packages that are
    installed. Its inputs are made when they are first needed."""

    def __init__(self, case: Case, dropout: float, device: torch.device, kernels: bool) -> None:
        """``kernels``: measure our Triton kernels (on a GPU) or what "auto" takes instead (on a CPU)."""
        self.case, self.dropout, self.device, self.dtype = case, dropout, device, case.dtype
        self.about = dict(suite="ops", op=case.op, case=case.name, shape=case.words, dtype=case.label, dropout=dropout)
        self.select = f"--case {shlex.quote(self.name)}"
        self.ours = OURS if kernels else AUTO
        self.modes = (FORWARD, BOTH) if case.has_gradient else (FORWARD,)
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
        grads = problem.gradients(outputs) if self.case.has_gradient else ()
        error = largest_error(self.case, outputs, want) if want and baseline.same else None
        del outputs
        wanted = list(leaves.values())
        calls = {FORWARD: call, BOTH: lambda: torch.autograd.grad(call(), wanted, grads)}
        calls = {mode: calls[mode] for mode in self.modes}
        calls[self.modes[-1]]()
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
        super().release()


class Step(Subject):
    """One preset at one batch, with DropToken and dropout as configured."""

    modes = MODES
    heavy = frozenset({_COMPILED, OFFICIAL})

    def __init__(
        self, model: str, batch: int, size: str, device: torch.device, kernels: bool, official: Official | None = None
    ) -> None:
        self.config, self.batch, self.device = config_of(model, DROPS[0], size == "tiny"), batch, device
        # Of a tiny model only the tracing is exercised: the C++ compiler would take a minute.
        self.compiler = "eager" if size == "tiny" else "inductor"
        self.dtype = type_of("auto", device)
        self.about = dict(suite="steps", op="step", case=f"{model} b{batch}")
        self.about |= columns_of(self.config, batch, device)
        self.select = f"--step {model}:{batch}"
        self.ours = "ours triton" if kernels else "ours auto"
        self.providers = (self.ours, "ours torch", *models(self.config), _COMPILED)
        self.official = official
        if official is not None and missing(self.config) is None:
            self.providers += (OFFICIAL,)

    def prepare(self, provider: str) -> Prepared:
        began = time.perf_counter()
        used: dict[str, list[float]] = defaultdict(list)  # CPU seconds
        work = train_flops_per_sample(self.config) * self.batch
        if provider == OFFICIAL:
            assert self.official is not None
            process, version = self.official.start(self.config, self.batch)
            costs, once = {STEP: Cost(work, 0.0)}, lambda: used[STEP].append(process.ask({}, LIMIT)["cpu"])
            rest: dict[str, Any] = dict(samples=self.batch, notes=[f"TensorFlow {version}"], cpu=used, here=False)
            return Prepared({STEP: once}, costs, lambda: None, time.perf_counter() - began, **rest)
        torch.manual_seed(0)
        inputs = random_batch(self.config, self.batch, self.device)
        module = self._module(provider).to(self.device, self.dtype).train()
        loss = _loss(module, inputs, provider.startswith("ours"))
        parameters = [p for p in module.parameters() if p.requires_grad]
        adam = torch.optim.AdamW(parameters, lr=1e-4, fused=True)

        # Gradients are freed at the end, so that they count into the memory of the next call.
        def both() -> None:
            loss().backward()
            adam.zero_grad()

        def step() -> None:
            loss().backward()
            adam.step()
            adam.zero_grad()

        def refresh() -> None:
            for x in inputs.values():
                x.copy_(x.flip(0, 1))

        def counted(mode: str, call: Callable[[], Any]) -> Callable[[], Any]:
            def run() -> None:
                before = time.process_time()
                call()
                used[mode].append(time.process_time() - before)

            return run if self.device.type == "cpu" else call

        calls = {mode: counted(mode, call) for mode, call in ((FORWARD, loss), (BOTH, both), (STEP, step))}
        for _ in range(2 if provider in self.heavy else 1):
            step()
        synchronize(self.device)
        costs = {mode: Cost(work / 3 if mode == FORWARD else work, 0.0) for mode in calls}
        return Prepared(calls, costs, refresh, time.perf_counter() - began, samples=self.batch, cpu=used)

    def release(self) -> None:
        if self.official is not None:
            self.official.close()
        super().release()

    def _module(self, provider: str) -> nn.Module:
        if not provider.startswith("ours"):
            return models(self.config)[provider]()
        if provider != _COMPILED:
            return Pretraining(self.config, provider.removeprefix("ours "))
        module = Pretraining(self.config, "torch")
        for part in module.modules():
            if isinstance(part, Encoder):  # around them DropToken draws from a new generator at each call
                part.compile(backend=self.compiler, dynamic=False)
        return module


def _loss(module: nn.Module, inputs: dict[str, Tensor], ours: bool) -> Callable[[], Tensor]:
    if not ours:
        return lambda: module(inputs["video"], inputs["audio"], inputs["text"])
    seeds = iter(range(1 << 30))  # DropToken keeps other tokens at each call
    return lambda: module(inputs, next(seeds))["loss"]


def subjects(
    device: torch.device,
    size: str,
    ops: Sequence[str] = OPS,
    steps: Sequence[tuple[str, int]] | None = None,
    kernels: bool | None = None,
    official: Official | None = None,
) -> list[Subject]:
    """Operations, the most important first (cases with a target as training runs them, then without dropout, then the
    others), and steps.

    ``size``: of `bench.cases.SIZES`; ``steps``: presets and clips of a batch, None for those of the size; ``kernels``:
    as of `Operation`, by default on a GPU; ``official``: also a provider of steps.
    """
    kernels = device.type == "cuda" if kernels is None else kernels
    found: list[Subject] = [Operation(case, rate, device, kernels) for case in cases(size, ops) for rate in rates(case)]
    found.sort(key=lambda subject: subject.rank)
    chosen = STEPS[size] if steps is None else steps
    return found + [Step(model, batch, size, device, kernels, official) for model, batch in chosen]
