"""The backends of a model on this machine: which problems it has, and processes that check and time its backends.

The choice itself is `vatt.kernels.selection`, which knows no model. Here a model runs once on tensors without memory,
and tells every operation that it calls; then worker processes examine the backends, several at once, so that a kernel
that hangs its compiler or loses the device ends a worker and not the run.
"""

from __future__ import annotations

import importlib
import os
import queue
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from vatt.kernels.registry import Call, Problem, listening
from vatt.kernels.selection import SECONDS, Examiner, Here, NotExamined, Selection, cache, select_backends
from vatt.kernels.timing import TooLong, reason
from vatt.process import Message, Process, ProcessFailed, Send, running, worker

MOST_WORKERS = 6
_NO_LIMIT = 1e6  # seconds: who asks a worker has the limit


def problems_of(module: nn.Module, *arguments: Any, dtype: torch.dtype) -> list[Problem]:
    """What ``module`` asks of the operations when it is called, in this mode (training or not) and with gradients where
    its parameters have them. Nothing is computed: weights and ``arguments`` are replaced by tensors without memory.

    Args:
        dtype: of the weights; buffers keep theirs.
    """
    found: dict[Problem, None] = {}

    def listener(op: str, call: Call) -> None:
        found[Problem.of(op, call)] = None

    weights = {name: _empty(x, dtype).requires_grad_(x.requires_grad) for name, x in module.named_parameters()}
    buffers = {name: _empty(x, x.dtype) for name, x in module.named_buffers()}
    with torch.random.fork_rng(devices=[]), listening(listener):
        torch.func.functional_call(module, weights | buffers, tuple(map(_without_memory, arguments)))
    return list(found)


def _empty(x: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.empty(x.shape, dtype=dtype if x.is_floating_point() else x.dtype, device="meta")


def _without_memory(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.to("meta")
    return {name: _without_memory(item) for name, item in value.items()} if isinstance(value, Mapping) else value


def choose(
    problems: Iterable[Problem], device: torch.device, *, begun: Selection | None = None, seconds: float = SECONDS
) -> Selection:
    """Decisions for ``problems`` on ``device``: from the cache, and from checks and times for what it does not know,
    which go into the cache. Follow them with `Selection.install`.

    Args:
        begun: the decisions of a run that goes on, which stay as they are.
        seconds: the budget for what is to be examined.
    """
    begun = begun or Selection()
    before = cache.load(device)
    new = [problem for problem in problems if begun.of(problem) is None]
    with _examiners(device) as examiner:
        found = select_backends(new, device, known=before, examiner=examiner, seconds=seconds)
    if any(before.of(decision.problem) != decision for decision in found.decisions):
        cache.save(device, found)
    return begun.merged(found)


@contextmanager
def _examiners(device: torch.device) -> Iterator[Any]:
    """What makes an examiner: on a GPU worker processes, which are gone when the block ends; else this process."""
    with ExitStack() as stack:

        def make() -> Examiner:
            return Workers(device, stack) if device.type == "cuda" else Here(device)

        yield make


class Workers:
    """Checks and times in processes of their own. One that dies or takes too long is replaced.

    Args:
        stack: ends them.
        modules: imported by each, for what they register.
    """

    def __init__(self, device: torch.device, stack: ExitStack, workers: int | None = None, modules: str = "") -> None:
        self.workers = workers or max(2, min(MOST_WORKERS, (os.cpu_count() or 2) // 2))
        self._settings = {"device": str(device), "modules": modules}
        self._stack = stack
        self._idle: queue.LifoQueue[Process | None] = queue.LifoQueue()
        for _ in range(self.workers):
            self._idle.put(None)  # one that is to be started

    def prepare(self, limit: float) -> None:
        """Starts them, side by side. One that does not start is tried again when it is needed."""

        def start(process: Process | None) -> None:
            with suppress(NotExamined):
                process = process or self._start(limit)
            self._idle.put(process)

        idle = [self._idle.get() for _ in range(self.workers)]  # all, before the first comes back
        with ThreadPoolExecutor(self.workers) as pool:
            list(pool.map(start, idle))

    def check(self, problem: Problem, backend: str, limit: float) -> None:
        self._ask("check", problem, backend, limit)

    def time(self, problem: Problem, backend: str, limit: float) -> float:
        return float(self._ask("time", problem, backend, limit)["ms"])

    def _ask(self, what: str, problem: Problem, backend: str, limit: float) -> Message:
        process, until = self._idle.get(), time.monotonic() + limit
        try:
            if process is None:
                process = self._start(limit)
            left = until - time.monotonic()
            request = {"do": what, "backend": backend, "problem": cache.problem_to_json(problem)}
            try:
                return process.ask(request, max(left, 0.1))
            except ProcessFailed as failure:
                if process.expired is None:
                    kind = torch.OutOfMemoryError if "OutOfMemoryError" in str(failure) else RuntimeError
                    raise kind(str(failure)) from failure
                if left < 0.9 * limit:  # the rest went into its start
                    raise NotExamined("no time after the start of its process") from failure
                raise TooLong(f"took longer than {limit:.0f} s") from failure
        finally:
            self._idle.put(process if process is not None and process.alive else None)

    def _start(self, limit: float) -> Process:
        process = self._stack.enter_context(running(worker("vatt.kernel_selection:work", self._settings)))
        try:
            process.ask({"do": "start"}, limit)
        except ProcessFailed as failure:
            raise NotExamined(f"its process does not start: {failure}") from failure
        return process


def work(settings: Message, send: Send, requests: Iterable[Message]) -> None:
    """A worker: answers each request of `Workers`. Ends where the device is lost, so that nobody else fails with it."""
    device = torch.device(settings["device"])
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.zeros(1, device=device)
    for name in filter(None, settings["modules"].split(",")):
        importlib.import_module(name)
    examiner = Here(device)
    for request in requests:
        try:
            if request["do"] == "start":
                send({"started": True})
                continue
            arguments = cache.problem_from_json(request["problem"]), request["backend"], _NO_LIMIT
            if request["do"] == "check":
                examiner.check(*arguments)
                send({"right": True})
            else:
                send({"ms": examiner.time(*arguments)})
        except Exception as error:  # the verdict on this backend
            try:
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
            except RuntimeError:
                sys.exit(f"error: {reason(error)}")
            send({"failed": reason(error)})
